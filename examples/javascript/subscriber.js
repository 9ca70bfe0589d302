// Reacts to customers that are created, changed and deleted, with KafkaJS.
//
//   npm ci && node subscriber.js BOOTSTRAP [GROUP] [--once]
//
// KafkaJS reads only what was committed by default (`readUncommitted: false`), and puts a key into the same partition as
// Rollcall does. The sequence of a customer drops duplicate events; `--once` stops at the end of the topic.
import { Kafka, logLevel } from 'kafkajs'

const [bootstrap, group = 'example-javascript'] = process.argv.slice(2).filter((given) => !given.startsWith('--'))
const once = process.argv.includes('--once')
const kafka = new Kafka({ clientId: 'example', brokers: bootstrap.split(','), logLevel: logLevel.ERROR })
const consumer = kafka.consumer({ groupId: group, readUncommitted: false, maxWaitTimeInMs: 500 })
const handled = new Map()

function react (type, key, sequence, event) {
  const what = type === 'customer.deleted' ? `deleted (${event.reason})` : `${type}, ${event.changed.length} fields`
  console.log(`${key} #${sequence}: ${what}`)
}

await consumer.connect()
await consumer.subscribe({ topic: 'customers.events', fromBeginning: true })
const left = once ? await open() : undefined
if (left?.size === 0) process.exit() // everything was read before
await consumer.run({
  eachBatch: async ({ batch, heartbeat, resolveOffset }) => {
    for (const message of batch.messages) {
      const key = message.key.toString()
      const sequence = Number(message.headers.ce_sequence)
      if (sequence > (handled.get(key) ?? 0)) {
        react(message.headers.ce_type.toString(), key, sequence, JSON.parse(message.value))
        handled.set(key, sequence)
      }
      resolveOffset(message.offset)
    }
    await heartbeat()
    if (left) passed(batch.partition, batch.messages.at(-1).offset)
  }
})

// For --once: the partitions that still have records to read, and the end of each. After the last record stands a commit's
// marker, which is nothing to read.
async function open () {
  const admin = kafka.admin()
  await admin.connect()
  const ends = await admin.fetchTopicOffsets('customers.events')
  const [{ partitions }] = await admin.fetchOffsets({ groupId: group, topics: ['customers.events'] })
  await admin.disconnect()
  const read = new Map(partitions.map(({ partition, offset }) => [partition, BigInt(offset)]))
  const unread = ends.filter(({ partition, high, low }) => high !== low && read.get(partition) + 1n < BigInt(high))
  return new Map(unread.map(({ partition, high }) => [partition, BigInt(high)]))
}

function passed (partition, offset) {
  if (BigInt(offset) + 2n >= left.get(partition)) left.delete(partition)
  if (left.size === 0) setImmediate(() => consumer.disconnect())
}
