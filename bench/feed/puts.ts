import { spawnKvstore } from '../../test/fixtures/kvstore.ts';
import { moray } from '../../test/fixtures/moray.ts';
import { type BenchClient, npmClient, ownClient } from '../kv/clients.ts';
import { cpuOf } from '../kv/cpu.ts';
import { load } from '../kv/load.ts';
import { bucket, config, keyOf, objectOf } from '../kv/objects.ts';
import { type CaptureProcess, caughtUp, spawnCapture } from './capture.ts';
import { type Cost, costEach, minus, readCost } from './cost.ts';
import { type LogName, type Machine, startMachine } from './machine.ts';

const concurrency = 64;

const clients = { "Conger's client": ownClient, 'npm moray': npmClient };
export type ClientName = keyof typeof clients;
export const clientNames = Object.keys(clients) as ClientName[];

export interface PutRound {
  readonly without: number;
  readonly withCapture: number;
  /** Changes that were appended for each put, while it was measured. */
  readonly kept: number;
  /** Microseconds a put, with capture: of the capture's side, */
  readonly cost: Cost;
  /** of kvstore, */
  readonly server: number;
  /** and of the load. */
  readonly client: number;
}

/**
 * Puts of 1 KB objects with six indexes, by 64 loops over one connection: with and without a running capture, in turn,
 * `seconds` each. A capture first works off what was put without it.
 */
export async function measurePuts(
  log: LogName,
  client: ClientName,
  rounds: number,
  seconds: number,
): Promise<PutRound[]> {
  const machine = await startMachine(log);
  const kvstore = await spawnKvstore(machine.url);
  try {
    await (await spawnCapture(machine.env)).stop();
    const setUp = await moray(kvstore.port);
    await setUp.createBucket(bucket, config);
    await setUp.close();
    const connection = await clients[client](kvstore.port);
    const putting = new Putting(connection);
    await putting.run(2);
    const found: PutRound[] = [];
    for (let round = 0; round < rounds; round++) {
      // Whoever comes second has the larger tables.
      const without = () => putting.run(seconds);
      const first = round % 2 === 0 ? await without() : undefined;
      const captured = await withCapture(machine, putting, seconds, cpuSource(kvstore.child.pid));
      const second = first ?? (await without());
      found.push({ without: second, ...captured });
    }
    await connection.close();
    return found;
  } finally {
    await kvstore.stop();
    await machine.stop();
  }
}

function cpuSource(pid: number | undefined): () => number {
  return () => cpuOf(pid ?? Number.NaN);
}

class Putting {
  readonly #client: BenchClient;
  written = 0;

  constructor(client: BenchClient) {
    this.#client = client;
  }

  /** Answers puts a second. @throws Error where one fails */
  async run(seconds: number): Promise<number> {
    const put = () => {
      const n = this.written++;
      return this.#client.put(keyOf(n), objectOf(n), {});
    };
    const { perSecond, errors } = await load(put, concurrency, seconds * 1000);
    if (errors.size > 0) throw new Error(`puts failed: ${[...errors.keys()].join(', ')}`);
    return perSecond;
  }
}

async function withCapture(machine: Machine, putting: Putting, seconds: number, server: () => number) {
  const capture = await spawnCapture(machine.env);
  try {
    await caughtUp(machine);
    await putting.run(1);
    const before = await reading(machine, capture, putting, server);
    const withCapture = await putting.run(seconds);
    const after = await reading(machine, capture, putting, server);
    const puts = after.puts - before.puts;
    const own = process.cpuUsage(before.own);
    await caughtUp(machine);
    return {
      withCapture,
      kept: (after.appended - before.appended) / puts,
      cost: costEach(minus(after.cost, before.cost), puts),
      server: ((after.server - before.server) / puts) * 1e6,
      client: (own.user + own.system) / puts,
    };
  } finally {
    await capture.stop();
  }
}

async function reading(machine: Machine, capture: CaptureProcess, putting: Putting, server: () => number) {
  return {
    own: process.cpuUsage(),
    server: server(),
    puts: putting.written,
    appended: await capture.appended(),
    cost: await readCost(machine, capture),
  };
}
