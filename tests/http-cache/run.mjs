#!/usr/bin/env node
// Runs the public conformance suite for HTTP caches, `http-cache-tests`, through a route with `cache = "http"`.
//
//   node tests/http-cache/run.mjs [--bin PATH] [--id TEST] [--all]
//
// It installs the suite into a throw-away folder, starts its origin, starts the proxy (`--bin`, else target/release or
// target/debug, whichever is newer) in front of it, and prints each failed test by its id. Exit code 1: something failed that
// is required, applies, and is not listed below. `--id` runs one test and shows all messages; `--all` also lists what is not
// required: what an optimal cache would do, and questions that have no wrong answer.
//
// The suite's client knows nothing of accounts, so its `fetch` is given one that adds `X-Account-Token`. Nothing else of a
// request or an answer is touched.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import fs from 'node:fs'
import net from 'node:net'
import os from 'node:os'
import path from 'node:path'
import { pathToFileURL, fileURLToPath } from 'node:url'

const VERSION = '0.4.5'
const ROOT = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '../..')
const ACCOUNT = 'acme'

const OWN_CREDENTIALS = 'the caller\'s Authorization never goes upstream; what is stored is keyed by the proxy\'s own credentials and the account instead'
const NO_COOKIES = 'Set-Cookie is never passed on, so that no answer can carry one caller\'s state to another'
const SIX_METHODS = 'a route takes GET, HEAD, POST, PUT, PATCH and DELETE; another method never passes, so it invalidates nothing'
const NO_LICENCE = 'asks that a cache which serves stale without leave (stale-close) stops at this directive; here nothing stale is served without ' +
  'leave, the answer is 502, and the test takes an answer that lacks its origin\'s headers for a stored one'

/** Tests that do not apply here, or cannot be passed together with another, each with its reason. */
const EXCEPTED = {
  'other-authorization': OWN_CREDENTIALS,
  'other-authorization-public': OWN_CREDENTIALS,
  'other-authorization-must-revalidate': OWN_CREDENTIALS,
  'other-authorization-smaxage': OWN_CREDENTIALS,
  'headers-store-Set-Cookie': NO_COOKIES,
  'headers-store-Set-Cookie2': NO_COOKIES,
  '304-etag-update-response-Set-Cookie': NO_COOKIES,
  '304-etag-update-response-Set-Cookie2': NO_COOKIES,
  'other-set-cookie': NO_COOKIES,
  'invalidate-M-SEARCH': SIX_METHODS,
  'invalidate-M-SEARCH-failed': SIX_METHODS,
  'invalidate-M-SEARCH-cl': SIX_METHODS,
  'stale-close-must-revalidate': NO_LICENCE,
  'stale-close-proxy-revalidate': NO_LICENCE,
  'stale-close-no-cache': NO_LICENCE,
  'stale-close-s-maxage=2': NO_LICENCE,
  'age-parse-prefix': 'wants "Age: 0,7200" to be fresh, where age-parse-dup-0 wants "Age: 0, 0" to be stale: an Age that is not one number is taken ' +
    'for any age here, which passes the eleven others'
}

const options = { all: process.argv.includes('--all') }
for (const name of ['bin', 'id']) {
  const at = process.argv.indexOf(`--${name}`)
  if (at > 0) options[name] = process.argv[at + 1]
}

const scratch = fs.mkdtempSync(path.join(os.tmpdir(), 'http-cache-tests-'))
const children = []
let code = 1
try {
  code = await main()
} finally {
  for (const child of children) child.kill()
  fs.rmSync(scratch, { recursive: true, force: true })
}
process.exit(code)

async function main () {
  const bin = options.bin ?? newest(['release', 'debug'].map(kind => path.join(ROOT, 'target', kind, 'merge-sync-proxy')))
  await done(start('npm', ['install', '--prefix', scratch, '--no-audit', '--no-fund', '--silent', `http-cache-tests@${VERSION}`]))
  const suite = path.join(scratch, 'node_modules', 'http-cache-tests')
  const [origin, proxy, admin] = [await freePort(), await freePort(), await freePort()]

  start('node', [path.join(suite, 'server/server.mjs')], {
    npm_config_protocol: 'http', npm_config_port: origin, npm_config_pidfile: path.join(scratch, 'pid')
  })
  const config = path.join(scratch, 'proxy.toml')
  fs.writeFileSync(config, configuration(origin, proxy, admin))
  start(bin, ['serve', '--config', config], { ORIGIN_KEY: 'key-of-the-origin', ACCOUNT_TOKEN: 'token-of-the-account' })
  await Promise.all([origin, proxy].map(listening))

  const load = file => import(pathToFileURL(path.join(suite, file)))
  const { runTests, getResults } = await load('client/runner.mjs')
  const { default: fetch } = await load('../node-fetch/lib/index.js')
  const { default: suites } = await load('tests/index.mjs')
  const withAccount = (url, init = {}) =>
    fetch(url, { ...init, headers: [...(init.headers ?? []), ['X-Account-Token', ACCOUNT]] })
  const chosen = options.id ? only(suites, options.id) : suites
  await runTests(chosen, withAccount, false, `http://127.0.0.1:${proxy}`)
  return judge(chosen.flatMap(group => group.tests), getResults())
}

/** The suite speaks to its origin by three paths: only `/test` is about caching. */
function configuration (origin, proxy, admin) {
  const route = (path, methods, cache) => `
[[routes]]
path = "${path}"
methods = ${JSON.stringify(methods)}
cache = "${cache}"
request_headers = ["*"]
`
  return `
[server]
listen = ["127.0.0.1:${proxy}"]
[admin]
listen = "127.0.0.1:${admin}"
[upstreams.origin]
base_url = "http://127.0.0.1:${origin}"
api_key = { env = "ORIGIN_KEY" }
[upstreams.origin.budget]
per_account = "unlimited"
concurrency = "unlimited"
errors = "unlimited"
[[accounts]]
name = "${ACCOUNT}"
token = { env = "ACCOUNT_TOKEN" }
[telemetry]
filter = "warn"
` + route('/test/*', ['GET', 'POST', 'PUT', 'DELETE'], 'http') + route('/config/*', ['PUT'], 'off') + route('/state/*', ['GET'], 'off')
}

/** Prints what failed and returns the exit code. */
function judge (tests, results) {
  const byId = new Map(tests.map(test => [test.id, test]))
  const kind = test => test.kind ?? 'required'
  const passed = id => results[id] === true
  const depends = test => (test.depends_on ?? []).filter(id => !passed(id) || depends(byId.get(id) ?? {}).length > 0)
  const tally = {}
  const unexpected = []
  for (const test of tests.filter(test => test.id in results)) {
    const count = tally[kind(test)] ??= { passed: 0, failed: 0, excepted: 0 }
    const reason = EXCEPTED[test.id]
    const outcome = passed(test.id) ? 'passed' : reason ? 'excepted' : 'failed'
    count[outcome] += 1
    if (outcome === 'passed') {
      if (reason) console.log(`passed although listed as excepted: ${test.id}`)
      continue
    }
    if (kind(test) !== 'required' && !options.all && !options.id) continue
    const why = reason ?? `${results[test.id].join(': ')}${depends(test).length ? ` (depends on ${depends(test)})` : ''}`
    console.log(`${outcome.padEnd(8)} ${kind(test).padEnd(8)} ${test.id}: ${why}`)
    if (outcome === 'failed' && kind(test) === 'required') unexpected.push(test.id)
  }
  console.table(tally)
  console.log(unexpected.length ? `unexpected failures: ${unexpected.join(' ')}` : 'every required test that applies has passed')
  return unexpected.length ? 1 : 0
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
  const stdio = options.id ? 'inherit' : ['ignore', 'ignore', 'inherit']
  const child = spawn(command, args, { env: { ...process.env, ...env }, stdio })
  children.push(child)
  return child
}

async function done (child) {
  const [status] = await once(child, 'exit')
  if (status !== 0) throw new Error(`${child.spawnfile} ended with ${status}`)
}

async function freePort () {
  const server = net.createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address()
  server.close()
  await once(server, 'close')
  return port
}

async function listening (port) {
  for (let tries = 0; tries < 100; tries++) {
    const socket = net.connect(port, '127.0.0.1')
    const up = await Promise.race([once(socket, 'connect').then(() => true), once(socket, 'error').then(() => false)]).catch(() => false)
    socket.destroy()
    if (up) return
    await new Promise(resolve => setTimeout(resolve, 100))
  }
  throw new Error(`nothing listens on port ${port}`)
}
