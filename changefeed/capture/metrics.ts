import { counter, gauge } from '../../runtime/metrics.ts';

export const changesAppended = counter('conger_capture_changes_total', 'changes appended to the log');
export const bytesAppended = counter(
  'conger_capture_bytes_total',
  'bytes of change bodies appended to the log',
);
export const lagSeconds = gauge(
  'conger_capture_lag_seconds',
  'age of the last appended change at its append, since its commit',
);
export const walBehindBytes = gauge(
  'conger_capture_wal_behind_bytes',
  'WAL from what the capture has confirmed to the end',
);
export const walHeldBytes = gauge(
  'conger_capture_wal_held_bytes',
  'WAL that PostgreSQL keeps for the capture, and for transactions in progress (CONGER_WAL_BUDGET_MB)',
);
export const spoolBytes = gauge(
  'conger_capture_spool_bytes',
  'disk space that large transactions take until they are in the log',
);
export const epochGauge = gauge('conger_capture_epoch', 'epoch of the positions that this capture gives');
export const activeGauge = gauge(
  'conger_capture_active',
  '1 while this process captures, 0 while it stands by',
);
