import type { BenchClient } from './clients.ts';
import { bucket, keyOf, objectOf } from './objects.ts';

export interface Step {
  readonly name: string;
  readonly concurrency: number;
  /** Made anew for each client: what the loops know of earlier operations starts empty. */
  readonly operation: (client: BenchClient) => (loop: number) => Promise<unknown>;
}

let written = 0;

/** How many objects are there for certain: those of the steps that have ended. */
let settled = 0;

/** Called between two steps. */
export function settle(): void {
  settled = written;
}

function someObject(): number {
  return Math.floor(Math.random() * settled);
}

const put: Step['operation'] = (client) => () => {
  const n = written++;
  return client.put(keyOf(n), objectOf(n), {});
};

/** Each loop has an object of its own, and writes it again with the etag that its last write answered. */
const update: Step['operation'] = (client) => {
  const own = new Map<number, { n: number; etag: string }>();
  return async (loop) => {
    const last = own.get(loop);
    const n = last?.n ?? written++;
    const options = last === undefined ? {} : { etag: last.etag };
    const { etag } = await client.put(keyOf(n), objectOf(n), options);
    own.set(loop, { n, etag });
  };
};

const get: Step['operation'] = (client) => () => client.get(keyOf(someObject()));

function find(rows: number, options: object): Step['operation'] {
  return (client) => async () => {
    const first = Math.floor(Math.random() * Math.max(1, settled - rows));
    const filter = rows === 1 ? `(name=object ${first})` : `(&(size>=${first})(size<=${first + rows - 1}))`;
    const found = await client.find(filter, options);
    if (found !== rows) throw new Error(`${found} objects where ${rows} are`);
  };
}

const batch: Step['operation'] = (client) => () => {
  const requests = Array.from({ length: 10 }, () => {
    const n = written++;
    return { bucket, operation: 'put', key: keyOf(n), value: objectOf(n), options: {} };
  });
  return client.batch(requests);
};

export const steps: readonly Step[] = [
  { name: 'put', concurrency: 1, operation: put },
  { name: 'put', concurrency: 16, operation: put },
  { name: 'put', concurrency: 64, operation: put },
  { name: 'update with etag', concurrency: 64, operation: update },
  { name: 'get', concurrency: 1, operation: get },
  { name: 'get', concurrency: 64, operation: get },
  { name: 'find one row', concurrency: 64, operation: find(1, {}) },
  { name: 'find one row, no_count', concurrency: 64, operation: find(1, { no_count: true }) },
  { name: 'find 100 rows', concurrency: 64, operation: find(100, {}) },
  { name: 'batch of 10 puts', concurrency: 64, operation: batch },
  { name: 'batch of 10 puts', concurrency: 256, operation: batch },
  { name: 'put', concurrency: 1024, operation: put },
];
