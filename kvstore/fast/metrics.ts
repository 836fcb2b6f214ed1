import { counter, gauge, timer } from '../../runtime/metrics.ts';

export const requestCount = counter(
  'conger_kvstore_requests_total',
  'Requests answered, by procedure and outcome (ok, aborted, or the name of the error)',
  ['rpc', 'outcome'],
);
export const requestSeconds = timer(
  'conger_kvstore_request_seconds',
  'Time from reading a request to its last answer, in seconds',
  ['rpc'],
);
export const connectionCount = gauge('conger_kvstore_connections', 'Open connections of clients');
