// A consumer built on Merge's SDK for Node, driven by tests/it/sdk.rs: a line of JSON says what to ask for, one comes back.
import { createRequire } from 'node:module'
import readline from 'node:readline'

// The SDK is not beside this file but in a folder of the test run: the first argument.
const { MergeClient, MergeError } = createRequire(`${process.argv[2]}/`)('@mergeapi/merge-node-client')

async function ask (call) {
  const client = new MergeClient({ baseUrl: call.base_url, apiKey: call.api_key, accountToken: call.account_token })
  const { cursor, page_size: pageSize } = call
  const page = await client[call.category].syncStatus.list({ cursor, pageSize }, { maxRetries: call.max_retries })
  const results = []
  if (call.all) for await (const model of page) results.push(model)
  else results.push(...page.data)
  return { next: page.response.next ?? null, results: results.map(model => [model.modelId, model.status]) }
}

for await (const line of readline.createInterface({ input: process.stdin })) {
  let answer
  try {
    answer = await ask(JSON.parse(line))
  } catch (error) {
    if (!(error instanceof MergeError)) throw error
    const type = error.rawResponse?.headers.get('content-type')
    answer = { error: 'MergeError', status: error.statusCode, type, body: error.body }
  }
  process.stdout.write(`${JSON.stringify(answer)}\n`)
}
