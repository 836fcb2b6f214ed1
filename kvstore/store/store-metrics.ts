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

export const listenerCount = gauge('conger_kvstore_listeners', 'Calls of listen that are under way');
