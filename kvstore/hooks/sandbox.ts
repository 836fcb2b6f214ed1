import { EventEmitter } from 'node:events';
import { createContext, Script } from 'node:vm';
import { CongerError, messageOf } from '../../runtime/errors.ts';
import type { Hook, HookDatabase, HookRequest } from './hook.ts';
import { requirePermitted } from './permitted-modules.ts';

/** How long code may run at a stretch: it has the server's only thread to itself meanwhile. */
const stretchMs = 250;

/** Evaluations, of which each but the last was cut off while this process was held up. */
const tries = 3;

const call = new Script('run()');

/**
 * Code that a client sent, in a global scope of its own. Whenever it runs it is within `enter`, so that a loop without
 * end is cut off. This keeps mistakes in, not malice: whoever may send code may do anything that the server may.
 */
class Sandbox {
  readonly #globals: { fn?: unknown; run?: () => void };
  readonly #context: object;

  /** @throws whatever evaluating `source` throws */
  constructor(source: string) {
    this.#globals = { fn: undefined };
    // Its promises go on within `enter` too.
    this.#context = createContext(Object.assign(this.#globals, { Error, require: requirePermitted }), {
      name: 'hook',
      microtaskMode: 'afterEvaluate',
    });
    const script = new Script(`fn = ${source}`, { filename: 'hook' });
    for (let left = tries - 1; ; left--) {
      const before = process.cpuUsage();
      try {
        script.runInContext(this.#context, { timeout: stretchMs });
        return;
      } catch (error) {
        if (!isTimeout(error) || left === 0 || !wasHeldUp(before)) throw error;
      }
    }
  }

  get value(): unknown {
    return this.#globals.fn;
  }

  /** @throws what `code` throws; HookTimeoutError where it was cut off */
  enter(code: () => void): void {
    this.#globals.run = code;
    try {
      call.runInContext(this.#context, { timeout: stretchMs });
    } catch (error) {
      if (!isTimeout(error)) throw error;
      throw new CongerError('HookTimeoutError', `a hook ran for over ${stretchMs} ms without a pause`);
    }
  }
}

function isTimeout(error: unknown): boolean {
  const code = typeof error === 'object' && error !== null && 'code' in error ? error.code : undefined;
  return code === 'ERR_SCRIPT_EXECUTION_TIMEOUT';
}

/** Whether what was cut off had no processor for most of its time: it is no loop. */
function wasHeldUp(before: NodeJS.CpuUsage): boolean {
  const { user, system } = process.cpuUsage(before);
  return (user + system) / 1_000 < stretchMs / 2;
}

/** Moray's `pg.query`: an emitter of `row` for each row, and then of `end` or `error`. */
function emittingQuery(
  sandbox: Sandbox,
  pg: HookDatabase,
  failed: (error: unknown) => void,
): (text: string, values?: readonly unknown[]) => EventEmitter {
  return (text, values) => {
    const emitter = new EventEmitter();
    const emit = (emission: () => void) => {
      try {
        sandbox.enter(emission);
      } catch (error) {
        failed(error);
      }
    };
    pg.query(text, values).then(
      (rows) =>
        emit(() => {
          for (const row of rows) emitter.emit('row', row);
          emitter.emit('end', { rows, rowCount: rows.length });
        }),
      (error: unknown) => emit(() => emitter.emit('error', error)),
    );
    return emitter;
  };
}

/**
 * Evaluates the source of a function `(req, cb)`, as Moray does, into a hook; undefined where it is no function. It is
 * done when it calls `cb`; an async function without `cb`, when it returns.
 * @throws Error where the source does not parse, or fails
 */
export function evaluateHook(source: string): Hook | undefined {
  let sandbox: Sandbox;
  try {
    sandbox = new Sandbox(source);
  } catch (error) {
    throw new Error(messageOf(error), { cause: error });
  }
  const fn = sandbox.value;
  if (typeof fn !== 'function') return undefined;
  return (request) =>
    new Promise<void>((resolve, reject) => {
      const done = (error?: unknown) => (error ? reject(error) : resolve());
      const req: HookRequest = Object.create(request, {
        pg: { get: () => ({ query: emittingQuery(sandbox, request.pg, reject) }), enumerable: true },
        key: { get: () => request.key, set: (key: string) => (request.key = key), enumerable: true },
        value: {
          get: () => request.value,
          set: (value: HookRequest['value']) => (request.value = value),
          enumerable: true,
        },
      });
      try {
        sandbox.enter(() => {
          const returned: unknown = fn(req, done);
          if (fn.length < 2 && isThenable(returned)) returned.then(() => resolve(), reject);
        });
      } catch (error) {
        reject(error);
      }
    });
}

function isThenable(value: unknown): value is PromiseLike<unknown> {
  return typeof value === 'object' && value !== null && 'then' in value && typeof value.then === 'function';
}
