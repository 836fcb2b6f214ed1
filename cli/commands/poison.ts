import { randomUUID } from 'node:crypto';
import { parseArgs } from 'node:util';
import {
  type HeldKey,
  listHeld,
  type PoisonRequest,
  readHeld,
  recordOf,
  requestBucket,
} from '../../changefeed/poison.ts';
import { createKv } from '../../kvstore/client.ts';
import type { Kv } from '../../kvstore/types.ts';
import { silentLogger } from '../../runtime/log.ts';
import { readEndpoints } from '../endpoints.ts';
import { Home } from '../home.ts';
import { type Command, UsageError } from './command.ts';

const help = `Usage: conger poison list [CONSUMER]
       conger poison show CONSUMER KEY
       conger poison replay CONSUMER KEY
       conger poison drop CONSUMER KEY [--all]

Changes that a consumer could not apply were put aside, and with each all that follow it for its partition key.

  list         the keys that wait, a line each: since when, consumer, partition, how many changes wait, key and reason
  show         what waits for a key, a line of JSON a change, in order
  replay       has the consumer apply what waits, up to the first change that fails again
  drop         leaves out the first change, and has the consumer apply what waits behind it

Consumers here read the state, so a replay applies the newest state. A request is done within moments where the
consumer runs; \`list\` tells what is left.

  --all        drops everything that waits for the key
  --home DIR   the datacenter's home (default .conger)
  --help       this text
`;

const pageSize = 1_000;

const options = {
  home: { type: 'string', default: '.conger' },
  all: { type: 'boolean', default: false },
} as const;

async function run(args: string[]): Promise<number> {
  const { values, positionals } = parseArgs({ args, options, allowPositionals: true });
  const [what, consumer, partitionKey, ...more] = positionals;
  if (more.length > 0) throw new UsageError(`too many arguments: ${more.join(' ')}`);
  if (values.all && what !== 'drop') throw new UsageError('--all is for drop');
  const { kvstore } = await readEndpoints(new Home(values.home).endpoints);
  const kv = createKv({ servers: kvstore, log: silentLogger() });
  try {
    if (what === 'list') {
      if (partitionKey !== undefined) throw new UsageError('list takes a consumer alone');
      return await list(kv, consumer);
    }
    if (what !== 'show' && what !== 'replay' && what !== 'drop')
      throw new UsageError('what to do is missing: list, show, replay or drop');
    if (consumer === undefined || partitionKey === undefined)
      throw new UsageError(`${what} needs a consumer and a key`);
    const key = (await listHeld(kv, consumer)).find((one) => one.partition_key === partitionKey);
    if (key === undefined) throw new Error(`nothing waits for key ${partitionKey} of ${consumer}`);
    if (what === 'show') return await show(kv, key);
    return await request(kv, key, what === 'replay' ? 'replay' : values.all ? 'drop-all' : 'drop');
  } finally {
    await kv.close();
  }
}

async function list(kv: Kv, consumer: string | undefined): Promise<number> {
  for (const key of await listHeld(kv, consumer)) {
    const since = new Date(key.time).toISOString();
    const reason = key.reason.replaceAll(/\s+/g, ' ');
    const place = `${key.consumer} ${key.partition}`;
    process.stdout.write(`${since}  ${place}  ${key.count}  ${key.partition_key}  ${reason}\n`);
  }
  return 0;
}

async function show(kv: Kv, key: HeldKey): Promise<number> {
  for (let from = ''; ; ) {
    const changes = await readHeld(kv, key.held, pageSize, from);
    for (const change of changes) {
      const { position, bucket, key: name, time, body } = change;
      const first = position === key.position ? { reason: key.reason, tries: key.tries } : {};
      const text = body === null ? null : recordOf(change).body.toString('utf8');
      const at = new Date(time).toISOString();
      process.stdout.write(`${JSON.stringify({ position, at, bucket, key: name, ...first, body: text })}\n`);
    }
    from = changes.at(-1)?.position ?? '';
    if (changes.length < pageSize) return 0;
  }
}

/** A change of its own: it comes to whoever owns the partition of the key. */
async function request(kv: Kv, key: HeldKey, action: PoisonRequest['action']): Promise<number> {
  const { consumer, partition_key, position } = key;
  const value: PoisonRequest = { v: 1, consumer, partition_key, action, position };
  await kv.put(requestBucket, `${consumer}/${randomUUID()}`, value, { etag: null });
  process.stdout.write(`asked ${consumer} to ${action === 'replay' ? 'replay' : 'drop'} what waits\n`);
  return 0;
}

export const poison: Command = { help, run };
