import { randomUUID } from 'node:crypto';
import http from 'node:http';
import { createRequire } from 'node:module';
import { setTimeout as sleep } from 'node:timers/promises';
import { CongerError, type ErrorCode, errorTable, type FieldError, messageOf } from '../../runtime/errors.ts';
import { currentTrace } from '../../runtime/trace.ts';

interface CueballAgent extends http.Agent {
  createPool(host: string, options: { resolver: unknown }): void;
  stop(done: () => void): void;
}
interface Cueball {
  HttpAgent: new (options: object) => CueballAgent;
  StaticIpResolver: new (options: object) => { start(): void; stop(): void };
}
// cueball has no types, and looks for a bunyan-like logger.
const cueball = createRequire(import.meta.url)('cueball') as Cueball;
const quiet = { trace() {}, debug() {}, info() {}, warn() {}, error() {}, fatal() {}, child: () => quiet };

const attemptTimeoutMs = 10_000;
const deadlineMs = 20_000;

export interface RestResponse<T> {
  readonly status: number;
  readonly headers: http.IncomingHttpHeaders;
  readonly body: T;
}

export interface RestOptions {
  readonly body?: unknown;
  readonly headers?: Readonly<Record<string, string>>;
  readonly query?: Readonly<Record<string, string | number | boolean | undefined>>;
  /** Milliseconds that one attempt may take; for long waits. */
  readonly timeoutMs?: number;
}

/**
 * A client of one service, over all its instances. cueball keeps the connections and leaves out the instances that
 * are down. A request that found no instance, lost its connection, or was answered 503 or 408 is sent again (with jitter,
 * within 20 s): all its tries have one `idempotency-key`, by which a service knows a repeat. `x-request-id` is that of
 * the request in force.
 * Any other error answer is thrown as the CongerError that it describes.
 */
export class RestClient {
  readonly name: string;
  readonly #agent: CueballAgent;
  readonly #resolver: { stop(): void };
  readonly #host: string;

  constructor(name: string, urls: readonly string[]) {
    this.name = name;
    this.#host = `${name}.conger`;
    const backends = urls.map((url) => {
      const { hostname, port } = new URL(url);
      return { address: hostname, port: Number(port || 80) };
    });
    const resolver = new cueball.StaticIpResolver({ backends, defaultPort: 80, log: quiet });
    const recovery = { default: { timeout: 2000, retries: 3, delay: 50, maxDelay: 2000, maxTimeout: 4000 } };
    this.#agent = new cueball.HttpAgent({
      spares: 2,
      maximum: 32,
      recovery,
      defaultPort: 80,
      errorOnEmpty: false,
      log: quiet,
    });
    this.#agent.createPool(this.#host, { resolver });
    resolver.start();
    this.#resolver = resolver;
  }

  get<T>(path: string, options?: RestOptions): Promise<RestResponse<T>> {
    return this.request('GET', path, options);
  }
  post<T>(path: string, options?: RestOptions): Promise<RestResponse<T>> {
    return this.request('POST', path, options);
  }
  put<T>(path: string, options?: RestOptions): Promise<RestResponse<T>> {
    return this.request('PUT', path, options);
  }
  delete<T>(path: string, options?: RestOptions): Promise<RestResponse<T>> {
    return this.request('DELETE', path, options);
  }

  /** @throws CongerError with the code that the service answered, or ServiceUnavailable after the last retry. */
  async request<T>(method: string, path: string, options: RestOptions = {}): Promise<RestResponse<T>> {
    const start = Date.now();
    const key = randomUUID();
    for (let attempt = 0; ; attempt++) {
      let failure: unknown;
      try {
        const answer = await this.#once<T>(method, path, key, options);
        if (answer.status < 400) return answer;
        // An earlier try whose answer was lost has deleted it.
        if (attempt > 0 && method === 'DELETE' && answer.status === 404) return answer;
        failure = errorOf(answer, `${this.name} ${method} ${path}`);
        if (answer.status !== 503 && answer.status !== 408) throw failure;
      } catch (error) {
        if (error === failure) throw error;
        failure = error;
      }
      const pause = Math.min(2000, 25 * 2 ** attempt) * (0.5 + Math.random());
      if (Date.now() - start + pause > deadlineMs) {
        throw new CongerError('ServiceUnavailable', `${this.name} cannot be reached: ${messageOf(failure)}`, {
          cause: failure,
        });
      }
      await sleep(pause);
    }
  }

  close(): Promise<void> {
    this.#resolver.stop();
    return new Promise((resolve) => this.#agent.stop(resolve));
  }

  #once<T>(method: string, path: string, key: string, options: RestOptions): Promise<RestResponse<T>> {
    const trace = currentTrace();
    const payload = options.body === undefined ? undefined : Buffer.from(JSON.stringify(options.body));
    const query = new URLSearchParams();
    for (const [name, value] of Object.entries(options.query ?? {}))
      if (value !== undefined) query.set(name, String(value));
    const headers: Record<string, string | number> = { accept: 'application/json', ...options.headers };
    if (method !== 'GET') headers['idempotency-key'] = key;
    if (trace !== undefined) {
      headers['x-request-id'] = trace.requestId;
      headers.traceparent = trace.traceparent;
    }
    if (payload !== undefined) {
      headers['content-type'] = 'application/json';
      headers['content-length'] = payload.length;
    }
    const fullPath = query.size > 0 ? `${path}?${query}` : path;
    return new Promise((resolve, reject) => {
      const request = http.request(
        {
          agent: this.#agent,
          host: this.#host,
          method,
          path: fullPath,
          headers,
          timeout: options.timeoutMs ?? attemptTimeoutMs,
        },
        (response) => {
          const chunks: Buffer[] = [];
          response.on('data', (chunk: Buffer) => chunks.push(chunk));
          response.on('error', reject);
          response.on('aborted', () => reject(new Error('the connection broke in mid-answer')));
          response.on('end', () => {
            const text = Buffer.concat(chunks).toString();
            resolve({ status: response.statusCode ?? 0, headers: response.headers, body: parse(text) as T });
          });
        },
      );
      request.on('timeout', () => request.destroy(new Error('no answer in time')));
      request.on('error', reject);
      request.end(payload);
    });
  }
}

function parse(text: string): unknown {
  if (text === '') return undefined;
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}

function errorOf(answer: RestResponse<unknown>, what: string): CongerError {
  const body = (answer.body ?? {}) as { code?: string; message?: string; errors?: FieldError[] };
  const known = body.code !== undefined && body.code in errorTable;
  const detail = { status: answer.status, ...(body.errors === undefined ? {} : { errors: body.errors }) };
  return known
    ? new CongerError(body.code as ErrorCode, body.message ?? what, detail)
    : new CongerError(
        'ServiceUnavailable',
        `${what}: ${answer.status} ${body.code ?? ''} ${body.message ?? ''}`.trim(),
        detail,
      );
}
