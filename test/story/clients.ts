import { createRequire } from 'node:module';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Endpoints } from '../../cli/endpoints.ts';
import type { Random } from '../random.ts';

/** Triton's own clients (the npm package `sdc-clients`), over every instance of a service. */

export type Service = 'cnapi' | 'vmapi' | 'napi' | 'fwapi';

type Callback = (error: unknown, result: unknown) => void;
type SdcClient = Record<string, (...args: unknown[]) => void>;
type SdcClients = Record<'CNAPI' | 'VMAPI' | 'NAPI' | 'FWAPI', new (options: object) => SdcClient>;

const sdc = createRequire(import.meta.url)('sdc-clients') as SdcClients;
const quiet = {
  trace() {},
  debug() {},
  info() {},
  warn() {},
  error() {},
  fatal() {},
  child: () => quiet,
  addSerializers() {},
};

const deadlineMs = 90_000;

interface RestError extends Error {
  readonly statusCode?: number;
  readonly code?: string;
}

export class Clients {
  /** Requests that were answered at once, and those that took more than one try. */
  readonly counts = { requests: 0, retries: 0 };
  readonly #instances: Readonly<Record<Service, readonly SdcClient[]>>;
  readonly #random: Random;

  constructor(endpoints: Endpoints, random: Random) {
    const all = (name: Service) =>
      endpoints[name].map(
        (url) => new sdc[name.toUpperCase() as 'CNAPI']({ url, log: quiet, agent: false, retry: false }),
      );
    this.#instances = { cnapi: all('cnapi'), vmapi: all('vmapi'), napi: all('napi'), fwapi: all('fwapi') };
    this.#random = random;
  }

  /**
   * Calls one method of Triton's client, on any instance. Where the connection breaks, or the instance is not ready,
   * it is called again on another one: with the same arguments, and so with the same request id.
   * @throws Error what the service answered, or the last failure after 90 s
   */
  async call<T>(service: Service, method: string, ...args: unknown[]): Promise<T> {
    const instances = this.#instances[service];
    const start = Date.now();
    this.counts.requests++;
    for (let at = this.#random.below(instances.length); ; at++) {
      const client = instances[at % instances.length]!;
      try {
        return await new Promise<T>((resolve, reject) => {
          const done: Callback = (error, result) => (error ? reject(error) : resolve(result as T));
          client[method]!(...structuredClone(args), done);
        });
      } catch (error) {
        if (!isPassing(error as RestError) || Date.now() - start > deadlineMs) {
          throw new Error(`${service}.${method} failed: ${describe(error as RestError)}`, { cause: error });
        }
        this.counts.retries++;
        await sleep(50 + this.#random.below(200));
      }
    }
  }
}

/** No answer, or an instance that cannot answer now. */
function isPassing(error: RestError): boolean {
  return error.statusCode === undefined || error.statusCode === 503;
}

function describe(error: RestError): string {
  return `${error.statusCode ?? 'no answer'} ${error.code ?? ''} ${error.message} ${JSON.stringify((error as { body?: unknown }).body ?? '')}`;
}
