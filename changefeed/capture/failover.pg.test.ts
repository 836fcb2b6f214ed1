import { setTimeout as sleep } from 'node:timers/promises';
import pg from 'pg';
import { afterEach, beforeEach, test } from 'vitest';
import { silentLogger } from '../../runtime/log.ts';
import { type ReplicatedPostgres, startReplicatedPostgres } from '../../test/fixtures/replicated-postgres.ts';
import { createEmbeddedReader, createEmbeddedWriter } from '../log/embedded/index.ts';
import { Seen } from '../testing/records.ts';
import type { LogReader } from '../types.ts';
import { Capture } from './capture.ts';
import { emit } from './wal.testing.ts';

const log = silentLogger();
const partitions = 2;

let postgres: ReplicatedPostgres;
let capture: Capture;
let reader: LogReader;
let seen: Seen;

beforeEach(async () => {
  postgres = await startReplicatedPostgres();
  const list = postgres.url;
  capture = new Capture({
    postgres: list,
    slot: 'conger',
    partitions,
    openWriter: async () =>
      createEmbeddedWriter({ postgres: list, partitions, retainMs: 2 ** 45, retainRecords: 1e6, log }),
    log,
  });
  await capture.start();
  reader = await createEmbeddedReader({ postgres: list, partitions, log });
  seen = new Seen();
  await reader.readAll(10, seen.take);
}, 240_000);

afterEach(async () => {
  await reader?.close();
  await capture?.stop();
  await postgres?.stop();
});

/** Commits a change on the primary; resolves when the reader has it. */
async function change(body: string): Promise<void> {
  const client = new pg.Client(postgres.primary().url);
  await client.connect();
  await emit(client, [{ partitionKey: 'owner', body }]);
  await client.end();
  await seen.until(() => [...seen.byPartition.values()].flat().some((one) => one.body.toString() === body));
}

async function captures(epoch: number): Promise<void> {
  while (!capture.status.active || capture.status.epoch < epoch) await sleep(20);
}

test('the capture and the readers of the log go over to the next primary, whether the old one died or froze', {
  timeout: 240_000,
}, async () => {
  await captures(1);
  await change('{"n":1}');
  const { epoch } = capture.status;

  await postgres.killPrimary();
  await postgres.promoteStandby();
  // The slot did not come along: the log opens another epoch.
  await captures(epoch + 1);
  await change('{"n":2}');
  await postgres.addStandby();

  const frozen = postgres.primary();
  await frozen.kill('SIGSTOP');
  await postgres.promoteStandby();
  await captures(epoch + 2);
  await change('{"n":3}');
  await frozen.kill('SIGCONT');
  await change('{"n":4}');
});
