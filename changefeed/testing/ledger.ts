import { type ChildProcess, execFile, fork } from 'node:child_process';
import { once } from 'node:events';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import type { Kv } from '../../kvstore/types.ts';
import { ensureConsumerBuckets } from '../checkpoint.ts';
import type { Position } from '../types.ts';

/** What the members of a group in processes of their own consume, and where they enter it (ledger-process.ts). */
export const entriesBucket = 'entries';
export const ledgerBucket = 'ledger';

const entry = fileURLToPath(new URL('../../dist/changefeed/testing/ledger-process.js', import.meta.url));

export interface LedgerEntry {
  readonly kind: 'entry';
  readonly partition: number;
  readonly member: string;
  /** Of the changes that were applied together. */
  readonly positions: readonly Position[];
}

export async function ensureLedger(kv: Kv): Promise<void> {
  await ensureConsumerBuckets(kv);
  await kv.ensureBucket(entriesBucket, { index: {}, options: { version: 1 } });
  await kv.ensureBucket(ledgerBucket, {
    index: { kind: { type: 'string' } },
    options: { version: 1, feed: false },
  });
}

/** In the order in which they were committed, for each partition. */
export async function readLedger(kv: Kv): Promise<LedgerEntry[]> {
  const { objects } = await kv.find<LedgerEntry>(ledgerBucket, '(kind=entry)', { noLimit: true });
  return objects.toSorted((a, b) => a._id - b._id).map(({ value }) => value);
}

/** A member in a process of its own, from dist/ as it was last built; `env` has the addresses, and its name. */
export async function spawnMember(env: Readonly<Record<string, string>>): Promise<ChildProcess> {
  const child = fork(entry, [], {
    env: { ...process.env, CONGER_LOG_LEVEL: 'fatal', ...env },
    stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
  });
  await once(child, 'message');
  return child;
}

/** Resolves once the process is stopped (SIGSTOP). */
export async function untilStopped({ pid }: ChildProcess): Promise<void> {
  for (;;) {
    const { stdout } = await promisify(execFile)('ps', ['-o', 'state=', '-p', String(pid)]);
    if (stdout.trim().startsWith('T')) return;
    await sleep(10);
  }
}
