// A real Payload server on SQLite, without its Next.js front end: its own REST handlers behind a plain HTTP server.
// Usage: node server.mjs DATABASE_FILE. Prints {"url", "authorization"} once it answers; ends with its standard input.
import { randomUUID } from 'node:crypto'
import http from 'node:http'

import { sqliteAdapter } from '@payloadcms/db-sqlite'
import { buildConfig, getPayload, handleEndpoints } from 'payload'

const TEXTS = [
  'customerId',
  'email',
  'phone',
  'companyName',
  'consumerFirstName',
  'consumerLastName',
  'consumerStatus',
  'consumerResidenceType',
  'consumerSocialSecurity',
]

const config = buildConfig({
  secret: randomUUID(),
  telemetry: false,
  typescript: { autoGenerate: false },
  collections: [
    { slug: 'users', auth: { useAPIKey: true }, fields: [] },
    {
      slug: 'customers',
      fields: [
        ...TEXTS.map((name) => ({ name, type: 'text' })),
        { name: 'consumerDateOfBirth', type: 'date' },
        { name: 'consumerIncome', type: 'number' },
      ],
    },
  ],
  db: sqliteAdapter({ client: { url: `file:${process.argv[2]}` }, push: true }),
})

const payload = await getPayload({ config })
const apiKey = randomUUID()
await payload.create({
  collection: 'users',
  data: { email: 'rollcall@example.com', password: randomUUID(), enableAPIKey: true, apiKey },
})

const server = http.createServer(async (incoming, outgoing) => {
  const chunks = []
  for await (const chunk of incoming) chunks.push(chunk)
  const request = new Request(`http://127.0.0.1${incoming.url}`, {
    method: incoming.method,
    headers: incoming.headers,
    body: chunks.length ? Buffer.concat(chunks) : undefined,
  })
  const response = await handleEndpoints({ config, request })
  outgoing.writeHead(response.status, Object.fromEntries(response.headers))
  outgoing.end(Buffer.from(await response.arrayBuffer()))
})

server.listen(0, '127.0.0.1', () => {
  const url = `http://127.0.0.1:${server.address().port}`
  console.log(JSON.stringify({ url, authorization: `users API-Key ${apiKey}` }))
})

process.stdin.on('end', () => process.exit(0))
process.stdin.resume()
