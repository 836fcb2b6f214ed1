import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { silentLogger } from '../../../runtime/log.ts';
import {
  type ReplicatedPostgres,
  startReplicatedPostgres,
} from '../../../test/fixtures/replicated-postgres.ts';
import { Member } from '../../testing/member.ts';
import { record } from '../../testing/records.ts';
import { createEmbeddedReader, createEmbeddedWriter } from './index.ts';

let postgres: ReplicatedPostgres;

beforeAll(async () => {
  postgres = await startReplicatedPostgres({ standby: false });
});

afterAll(() => postgres?.stop());

/** As an operator does whose standby is away. Answers whether anyone waited, until `signal`. */
async function cancelTheWait(signal?: AbortSignal): Promise<boolean> {
  while (signal?.aborted !== true) {
    const rows = await postgres
      .primary()
      .query(`SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'`);
    if (rows.length > 0) return true;
    await sleep(10);
  }
  return false;
}

test('what the standby may not have does not count as appended, nor as what is there', async () => {
  const writer = createEmbeddedWriter({
    ...{ postgres: postgres.primary().url, partitions: 1, retainMs: 2 ** 45, retainRecords: 1e6 },
    log: silentLogger(),
  });
  await writer.open();
  await writer.append([record(1, 0)]);
  await postgres.primary().query(`ALTER SYSTEM SET synchronous_standby_names = 'away'`);
  await postgres.primary().query('SELECT pg_reload_conf()');
  // The writer's backend reads it with one of its next statements.
  for (let n = 2, refused = false; !refused; n++) {
    const append = writer.append([record(n, 0)]).catch((error: Error) => error);
    const cancelling = new AbortController();
    const waits = cancelTheWait(cancelling.signal);
    const error = await append;
    cancelling.abort();
    refused = await waits;
    if (refused) expect(String(error)).toMatch(/standby/);
    else expect(error).toBeUndefined();
  }
  const opening = expect(writer.open()).rejects.toThrow(/standby/);
  await cancelTheWait();
  await opening;

  await postgres.primary().query('ALTER SYSTEM RESET synchronous_standby_names');
  await postgres.primary().query('SELECT pg_reload_conf()');
  expect(await writer.open()).toHaveLength(1);
  await writer.close();
});

test('members come and go while the standby is away', async () => {
  const { url } = postgres.primary();
  const options = { postgres: url, partitions: 1, log: silentLogger() };
  const writer = createEmbeddedWriter({ ...options, retainMs: 2 ** 45, retainRecords: 1e6 });
  await writer.open();
  const reader = await createEmbeddedReader(options);
  const first = new Member('first', 1);
  const reading = await reader.join('group', 'first', first);
  await first.until(() => first.owned.size === 1);
  await postgres.primary().query(`ALTER SYSTEM SET synchronous_standby_names = 'away'`);
  await postgres.primary().query('SELECT pg_reload_conf()');
  while (
    (await postgres.primary().query('SHOW synchronous_standby_names'))[0]?.synchronous_standby_names !==
    'away'
  )
    await sleep(10);
  await reading.stop();
  const second = new Member('second', 1);
  await reader.join('group', 'second', second);
  await second.until(() => second.owned.size === 1);
  await reader.close();

  await postgres.primary().query('ALTER SYSTEM RESET synchronous_standby_names');
  await postgres.primary().query('SELECT pg_reload_conf()');
  await writer.close();
});
