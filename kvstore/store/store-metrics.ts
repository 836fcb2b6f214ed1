import { Histogram } from 'prom-client';
import { timer as durations, gauge, metrics } from '../../runtime/metrics.ts';

/** The store's metrics; a process has one set, however many stores it opens. */
export const timer = {
  seconds: durations('conger_kvstore_group_seconds', 'Time of one group commit in PostgreSQL'),
  rows: new Histogram({
    name: 'conger_kvstore_group_rows',
    help: 'Writes that shared one group commit',
    buckets: [1, 2, 4, 8, 16, 32, 64, 128, 256],
    registers: [metrics],
  }),
};

const reindexLeft = gauge(
  'conger_kvstore_reindex_objects',
  'Objects that are still to be reindexed, about, as the last call of reindexObjects had it',
  ['bucket'],
);

export function setReindexLeft(bucket: string, objects: number): void {
  reindexLeft.set({ bucket }, objects);
}

/** The bucket is not being reindexed (any more). */
export function forgetReindex(bucket: string): void {
  reindexLeft.remove({ bucket });
}

export const slotWalHeld = gauge(
  'conger_kvstore_slot_wal_held_bytes',
  "WAL that PostgreSQL keeps for the capture's slot, also while no capture runs (CONGER_WAL_BUDGET_MB)",
);

export const listenerCount = gauge('conger_kvstore_listeners', 'Calls of listen that are under way');
