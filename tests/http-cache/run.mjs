#!/usr/bin/env node
// Runs the public conformance suite for HTTP caches, `http-cache-tests`, through a route with `cache = "http"`.
//
//   node tests/http-cache/run.mjs [--bin PATH] [--suite PATH] [--id TEST] [--all]
//
// It starts the suite's origin and the proxy (`--bin`, else target/release or target/debug, whichever is newer) in front of it,
// and prints each failed test by its id. The suite is what package-lock.json pins: in the folder `--suite`, or installed into a
// throw-away one. Exit code 1: something failed that is not listed below, or something that is listed has passed. `--id` runs one
// test and shows all messages; `--all` also lists the questions that have no wrong answer.
//
// The suite's client knows nothing of accounts, so its `fetch` is given one that adds `X-Account-Token`: an account for each test,
// since one test's origin answers 429, which closes the account to all for a while. Nothing else of a request or an answer is
// touched. `cargo test` runs this too: tests/it/conformance.rs.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import fs from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import readline from 'node:readline'
import { pathToFileURL, fileURLToPath } from 'node:url'

const HERE = path.dirname(fileURLToPath(import.meta.url))
const ROOT = path.resolve(HERE, '../..')

/** Longer than a run takes on a machine with much else to do. */
const LIMIT = 300_000

const OWN_CREDENTIALS = 'the caller\'s Authorization never goes upstream; what is stored is keyed by the proxy\'s own credentials and the account instead'
const NO_COOKIES = 'Set-Cookie is never passed on, so that no answer can carry one caller\'s state to another'
const SIX_METHODS = 'a route takes GET, HEAD, POST, PUT, PATCH and DELETE; another method never passes, so it invalidates nothing'
const NO_LICENCE = 'asks that a cache which serves stale without leave (stale-close) stops at this directive; here nothing stale is served without ' +
  'leave, the answer is 502, and the test takes an answer that lacks its origin\'s headers for a stored one'

/** Required tests that do not apply here, or cannot be passed together with another, each with its reason. */
const EXCEPTED = {
  'other-authorization': OWN_CREDENTIALS,
  'headers-store-Set-Cookie': NO_COOKIES,
  'headers-store-Set-Cookie2': NO_COOKIES,
  '304-etag-update-response-Set-Cookie': NO_COOKIES,
  '304-etag-update-response-Set-Cookie2': NO_COOKIES,
  'invalidate-M-SEARCH': SIX_METHODS,
  'invalidate-M-SEARCH-cl': SIX_METHODS,
  'stale-close-must-revalidate': NO_LICENCE,
  'stale-close-proxy-revalidate': NO_LICENCE,
  'stale-close-no-cache': NO_LICENCE,
  'stale-close-s-maxage=2': NO_LICENCE,
  '304-etag-update-response-ETag': 'wants a 304 that names another response to renew the stored one all the same, which RFC 9111 §4.3.4 forbids; here ' +
    'the other is fetched',
  'age-parse-prefix': 'wants "Age: 0,7200" to be fresh, where age-parse-dup-0 wants "Age: 0, 0" to be stale, and no published cache passes both. ' +
    'Taking the first member (RFC 9111 §5.1, a SHOULD) would pass this one, fail age-parse-dup-0 and age-parse-dup-old, and trust an ' +
    'age that something on the way has garbled; here a list is an age that cannot be read, and the response is stale'
}

const NO_HEURISTICS = 'a lifetime that the origin has not given is a guess; this cache makes none'
const NO_PARTS = 'only whole responses are stored; a 206 is passed on'

/** What an optimal cache would do and this one leaves, each with its reason. */
const LEFT = {
  'other-authorization-public': OWN_CREDENTIALS,
  'other-authorization-must-revalidate': OWN_CREDENTIALS,
  'other-authorization-smaxage': OWN_CREDENTIALS,
  'other-set-cookie': NO_COOKIES,
  'invalidate-M-SEARCH-failed': SIX_METHODS,
  ...Object.fromEntries([200, 203, 204, 404, 405, 410, 414, 501, 599].map(status => [`heuristic-${status}-cached`, NO_HEURISTICS])),
  'method-POST': 'what a POST brings is passed on and never stored: it is the answer to a body that nobody else has sent',
  'vary-normalise-lang-select': 'wants a language chosen by the weights in Accept-Language, which is the origin\'s to choose',
  'conditional-lm-fresh-no-lm': 'wants 304 to an If-Modified-Since that is older than the response\'s Date, where RFC 9111 §4.3.2 wants the whole response',
  'partial-store-partial-reuse-partial': NO_PARTS,
  'partial-store-partial-reuse-partial-byterange': NO_PARTS,
  'partial-store-partial-reuse-partial-absent': NO_PARTS,
  'partial-store-partial-reuse-partial-suffix': NO_PARTS,
  'partial-store-partial-complete': NO_PARTS
}

/**
 * Run before the origin's own code. Node's server closes a connection that was idle for five seconds, about as long as tests pause;
 * a POST that meets the close on its way cannot be sent again, and its test would fail for that. Not for ever, since the end of one
 * test's response is the close of its connection.
 */
const PATIENT = 'data:text/javascript,' + encodeURIComponent(`
  import http from 'node:http'
  const { createServer } = http
  http.createServer = listener => createServer({ keepAliveTimeout: 12_000 }, listener)
`)

const options = { all: process.argv.includes('--all') }
for (const name of ['bin', 'suite', 'id']) {
  const at = process.argv.indexOf(`--${name}`)
  if (at > 0) options[name] = process.argv[at + 1]
}

const scratch = fs.mkdtempSync(path.join(os.tmpdir(), 'http-cache-tests-'))
const children = []
process.on('exit', () => {
  for (const child of children) child.kill()
  fs.rmSync(scratch, { recursive: true, force: true })
})
for (const signal of ['SIGINT', 'SIGTERM']) process.on(signal, () => process.exit(1))
setTimeout(() => {
  console.log(`it is not over after ${LIMIT / 1000} s`)
  process.exit(1)
}, LIMIT)
process.exit(await main())

async function main () {
  const bin = options.bin ?? newest(['release', 'debug'].map(kind => path.join(ROOT, 'target', kind, 'merge-sync-proxy')))
  const suite = path.join(options.suite ?? await installed(), 'node_modules', 'http-cache-tests')
  const origin = start('node', ['--import', PATIENT, path.join(suite, 'server/server.mjs')], {
    npm_config_protocol: 'http', npm_config_port: 0, npm_config_pidfile: path.join(scratch, 'pid')
  })
  const originPort = await port(origin.stdout, /^Listening on .*:(\d+)/)
  const config = path.join(scratch, 'proxy.toml')
  fs.writeFileSync(config, configuration(originPort))
  const proxy = start(bin, ['serve', '--config', config], { ORIGIN_KEY: 'key-of-the-origin' })
  const proxyPort = await port(proxy.stderr, /"listen":"127\.0\.0\.1:(\d+)/)

  const load = file => import(pathToFileURL(path.join(suite, file)))
  const { runTests, getResults } = await load('client/runner.mjs')
  const { default: fetch } = await load('../node-fetch/lib/index.js')
  const { default: suites } = await load('tests/index.mjs')
  const account = url => new URL(url).pathname.split('/')[2]
  const withAccount = async (url, init = {}) => {
    const send = () => fetch(url, { ...init, headers: [...(init.headers ?? []), ['X-Account-Token', account(url)]] })
    const response = await send()
    // For the same reason: what tells the origin of a test is no part of it.
    return response.status === 502 && new URL(url).pathname.startsWith('/config/') ? await send() : response
  }
  const chosen = options.id ? only(suites, options.id) : suites
  await runTests(chosen, withAccount, false, `http://127.0.0.1:${proxyPort}`)
  return judge(chosen.flatMap(group => group.tests), getResults())
}

/** The suite speaks to its origin by three paths: only `/test` is about caching. */
function configuration (origin) {
  const route = (path, methods, cache) => `
[[routes]]
path = "${path}"
methods = ${JSON.stringify(methods)}
cache = "${cache}"
request_headers = ["*"]
`
  return `
[server]
listen = ["127.0.0.1:0"]
[admin]
listen = "127.0.0.1:0"
[upstreams.origin]
base_url = "http://127.0.0.1:${origin}"
api_key = { env = "ORIGIN_KEY" }
progress_timeout = "60s"
timeout = "60s"
[upstreams.origin.budget]
per_account = "unlimited"
concurrency = "unlimited"
errors = "unlimited"
breaker = "unlimited"
[telemetry]
log = "json"
access_log = false
` + route('/test/*', ['GET', 'POST', 'PUT', 'DELETE'], 'http') + route('/config/*', ['PUT'], 'off') + route('/state/*', ['GET'], 'off')
}

/** Prints what failed and returns the exit code. */
function judge (tests, results) {
  const byId = new Map(tests.map(test => [test.id, test]))
  const passed = id => results[id] === true
  const depends = test => (test.depends_on ?? []).filter(id => !passed(id) || depends(byId.get(id) ?? {}).length > 0)
  const reasons = { required: EXCEPTED, optimal: LEFT, check: {} }
  const tally = {}
  const wrong = []
  for (const test of tests.filter(test => test.id in results)) {
    const kind = test.kind ?? 'required'
    const reason = reasons[kind][test.id]
    const outcome = passed(test.id) ? 'passed' : reason ? 'excepted' : 'failed'
    tally[kind] ??= { passed: 0, failed: 0, excepted: 0 }
    tally[kind][outcome] += 1
    if (passed(test.id) ? reason : !reason && kind !== 'check') wrong.push(test.id)
    if (passed(test.id) && reason) console.log(`passed   ${kind.padEnd(8)} ${test.id}, although it is listed`)
    if (passed(test.id) || (kind === 'check' && !options.all && !options.id)) continue
    const why = reason ?? `${results[test.id].join(': ')}${depends(test).length ? ` (depends on ${depends(test)})` : ''}`
    console.log(`${outcome.padEnd(8)} ${kind.padEnd(8)} ${test.id}: ${why}`)
  }
  for (const id of Object.values(reasons).flatMap(Object.keys).filter(id => !options.id && !(id in results))) {
    console.log(`listed, and no test: ${id}`)
    wrong.push(id)
  }
  console.table(tally)
  console.log(wrong.length ? `not as listed: ${wrong.join(' ')}` : 'all is as listed: every required test that applies has passed')
  return wrong.length ? 1 : 0
}

function only (suites, id) {
  const found = suites.map(group => ({ ...group, tests: group.tests.filter(test => test.id === id) }))
  found.forEach(group => group.tests.forEach(test => { test.dump = true }))
  return found.filter(group => group.tests.length > 0)
}

function newest (files) {
  const there = files.filter(file => fs.existsSync(file))
  if (there.length === 0) throw new Error('build the proxy first, or name it with --bin')
  return there.sort((one, other) => fs.statSync(other).mtimeMs - fs.statSync(one).mtimeMs)[0]
}

function start (command, args, env = {}) {
  const child = spawn(command, args, { env: { ...process.env, ...env }, stdio: ['ignore', 'pipe', 'pipe'] })
  children.push(child)
  for (const stream of [child.stdout, child.stderr]) {
    if (options.id) stream.pipe(process.stderr)
    else stream.resume()
  }
  return child
}

/** Installs what package-lock.json pins. */
async function installed () {
  for (const file of ['package.json', 'package-lock.json']) fs.copyFileSync(path.join(HERE, file), path.join(scratch, file))
  const npm = spawn('npm', ['ci', '--no-audit', '--no-fund', '--silent'], { cwd: scratch, stdio: 'inherit' })
  const [status] = await once(npm, 'exit')
  if (status !== 0) throw new Error(`npm ends with ${status}`)
  return scratch
}

/** The port that a child says it listens on. */
async function port (stream, pattern) {
  for await (const line of readline.createInterface({ input: stream })) {
    const found = pattern.exec(line)
    if (!found) continue
    // What it says later is read too, lest it wait for somebody to read it.
    stream.resume()
    return found[1]
  }
  throw new Error(`nobody has said ${pattern}`)
}
