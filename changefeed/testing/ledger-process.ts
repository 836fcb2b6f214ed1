import { randomUUID } from 'node:crypto';
import { createKv } from '../../kvstore/client.ts';
import { runProcess } from '../../runtime/process.ts';
import { startConsumer } from '../consumer.ts';
import { openLogReader } from '../log/index.ts';
import { entriesBucket, type LedgerEntry, ledgerBucket } from './ledger.ts';

/** A process with a member of a group, whose effects are entries of a ledger. */
await runProcess('ledger', async ({ config, log, shutdown }) => {
  const kv = createKv({ servers: config.kvstore, log });
  shutdown.add('kv', () => kv.close());
  const reader = await openLogReader(config, log);
  shutdown.add('log reader', () => reader.close());
  const member = config.instance;
  const consumer = await startConsumer({
    name: 'ledger',
    member,
    reader,
    kv,
    log,
    buckets: [entriesBucket],
    // Nothing but the checkpoint keeps an effect from coming twice: each is an object of its own, without a condition.
    handle: async (changes, { partition }) => {
      const positions = changes.map(({ position }) => position);
      const value: LedgerEntry = { kind: 'entry', partition, member, positions };
      return [{ operation: 'put', bucket: ledgerBucket, key: randomUUID(), value }];
    },
  });
  shutdown.add('consumer', () => consumer.stop());
  return { urls: [] };
});
