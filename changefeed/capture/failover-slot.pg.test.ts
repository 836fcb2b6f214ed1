import { test } from 'vitest';
import { silentLogger } from '../../runtime/log.ts';
import { createEmbeddedReader, createEmbeddedWriter } from '../log/embedded/index.ts';
import { partitions, surviveFailovers } from './failover-slot.testing.ts';

const log = silentLogger();

test('the feed goes on from the same position on the standby that was promoted, in the same epoch', {
  timeout: 400_000,
}, async () => {
  await surviveFailovers({
    writer: async (postgres) =>
      createEmbeddedWriter({ postgres, partitions, retainMs: 2 ** 45, retainRecords: 1e6, log }),
    reader: (postgres) => createEmbeddedReader({ postgres, partitions, log }),
  });
});
