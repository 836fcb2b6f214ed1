import { isDeepStrictEqual } from 'node:util';
import { etagOf } from '../../kvstore/store/etag.ts';
import type { Random } from '../random.ts';
import { until } from '../until.ts';
import { bucket, Client, type Recorder } from './client.ts';
import type { Cluster } from './cluster.ts';
import type { Operation } from './history.ts';

const patienceMs = 120_000;

interface Row {
  readonly key: string;
  readonly text: string;
  readonly etag: string;
}

async function rows({ postgres }: Cluster): Promise<Row[]> {
  const found = await postgres
    .primary()
    .query(`SELECT _key AS key, _value::text AS text, _etag AS etag FROM kv."${bucket}" ORDER BY _key`);
  return found as unknown as Row[];
}

/** No statement of a kvstore server runs in PostgreSQL: what clients have given up has happened by now, or never will. */
async function atRest({ postgres }: Cluster): Promise<boolean> {
  const active = await postgres
    .primary()
    .query(
      `SELECT FROM pg_stat_activity WHERE application_name LIKE 'conger-kvstore%' AND state NOT LIKE 'idle%'`,
    );
  return active.length === 0;
}

/** Reads until there is an answer: a busy machine may take longer for it than a client waits. */
async function read(reader: Client, key: string): Promise<Operation> {
  const end = performance.now() + patienceMs;
  for (;;) {
    const operation = await reader.get(key);
    const answered = operation.outcome === 'ok' || operation.outcome === 'missing';
    if (answered || performance.now() > end) return operation;
  }
}

/**
 * Waits until every server answers, reads every object through each of them, as operations of the history, and compares
 * what they answer with PostgreSQL's own rows.
 * @returns what is wrong, a line each
 */
export async function readAtRest(
  cluster: Cluster,
  recorder: Recorder,
  keys: ReadonlySet<string>,
  random: Random,
): Promise<string[]> {
  for (const server of cluster.servers) {
    const reached = async () => {
      await server.call('ping', [{ deep: true }]);
      return true;
    };
    await until(`${server.name} reaches PostgreSQL`, reached, patienceMs);
  }
  for (let attempt = 0; ; attempt++) {
    await until('no statement is left in PostgreSQL', () => atRest(cluster), patienceMs);
    const before = await rows(cluster);
    const reads: Operation[] = [];
    for (const server of cluster.servers) {
      const reader = new Client(recorder, random, [server]);
      for (const key of keys) reads.push(await read(reader, key));
      reader.disconnect();
    }
    const after = await rows(cluster);
    if (!isDeepStrictEqual(before, after) && attempt < 3) continue;
    return compare(after, reads);
  }
}

function compare(stored: readonly Row[], reads: readonly Operation[]): string[] {
  const problems: string[] = [];
  const byKey = new Map(stored.map((row) => [row.key, row]));
  for (const { key, text, etag } of stored) {
    if (etagOf(text) !== etag) problems.push(`${key} is stored with etag ${etag}, not its value's`);
    if (!reads.some((read) => read.key === key)) problems.push(`${key} is stored, and nobody wrote it`);
  }
  for (const { key, outcome, server, error, foundEtag, foundValue } of reads) {
    const row = byKey.get(key);
    if (outcome !== 'ok' && outcome !== 'missing') {
      problems.push(`${key} could not be read through ${server}: ${error}`);
    } else if (row?.etag !== foundEtag) {
      problems.push(
        `${key} is ${foundEtag ?? 'none'} through ${server}, and ${row?.etag ?? 'none'} in PostgreSQL`,
      );
    } else if (row !== undefined && JSON.parse(row.text).writer !== foundValue) {
      problems.push(`${key} is ${foundValue} through ${server}, and ${row.text} in PostgreSQL`);
    }
  }
  return problems;
}
