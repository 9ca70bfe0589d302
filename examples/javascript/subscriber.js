// Reacts to customers that are created, changed and deleted, with KafkaJS.
//
//   npm ci && node subscriber.js BOOTSTRAP [GROUP] [--once]
//
// KafkaJS reads only what was committed by default (`readUncommitted: false`), and puts a key into the same partition as
// Rollcall does. The highest sequence of each customer drops what is given again. It is kept in memory, which serves after
// a rebalance; against a crash between your work and the commit keep it in a table of your own, in the transaction of your
// work. `--once` stops at the end of the topic.
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
// Unlike `eachBatch` this is told of what was filtered too: aborted records, and the marks that end transactions.
if (left) consumer.on(consumer.events.END_BATCH_PROCESS, ({ payload }) => passed(payload.partition, payload.lastOffset))
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
      await heartbeat()
    }
  }
})

// For --once: the partitions that are not read to their end, and the end of each.
async function open () {
  const admin = kafka.admin()
  await admin.connect()
  const ends = await admin.fetchTopicOffsets('customers.events')
  const [{ partitions }] = await admin.fetchOffsets({ groupId: group, topics: ['customers.events'] })
  await admin.disconnect()
  const read = new Map(partitions.map(({ partition, offset }) => [partition, BigInt(offset)]))
  const unread = ends.filter(({ partition, high, low }) => high !== low && read.get(partition) < BigInt(high))
  return new Map(unread.map(({ partition, high }) => [partition, BigInt(high)]))
}

function passed (partition, offset) {
  if (BigInt(offset) + 1n >= left.get(partition)) left.delete(partition)
  if (left.size === 0) setImmediate(() => consumer.disconnect())
}
