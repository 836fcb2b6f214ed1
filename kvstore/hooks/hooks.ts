import { LRUCache } from 'lru-cache';
import { CongerError, messageOf } from '../../runtime/errors.ts';
import { type Hook, type HookChains, labelOf, type NamedHook, nameIn } from './hook.ts';
import { evaluateHook } from './sandbox.ts';

/** A bucket's hooks as they are stored: names, or source texts of functions. */
export interface HookSources {
  readonly pre: readonly string[];
  readonly post: readonly string[];
}

const noFunction = Symbol('no function');
const maxEvaluated = 1024;

/**
 * The hooks that this server can run: those that its operator has registered by name, and, where it trusts its clients,
 * whatever code they send. A source is one hook for good: the registered one whose name it has, else its own code.
 */
export class Hooks {
  readonly #registered: ReadonlyMap<string, Hook>;
  readonly #trusting: boolean;
  readonly #evaluated = new LRUCache<string, Hook>({ max: maxEvaluated });
  readonly #chains = new WeakMap<HookSources, HookChains>();

  /** @param trusting whether code that clients send is run */
  constructor(registered: ReadonlyMap<string, Hook>, trusting: boolean) {
    this.#registered = registered;
    this.#trusting = trusting;
  }

  /**
   * Whether a bucket may be configured with these hooks.
   * @throws NotFunctionError
   */
  check(sources: { readonly pre: readonly unknown[]; readonly post: readonly unknown[] }): HookSources {
    for (const kind of ['post', 'pre'] as const) {
      const found = sources[kind].map((source) => {
        try {
          return this.#find(source);
        } catch (error) {
          throw notFunction('trigger not function', messageOf(error), error);
        }
      });
      if (found.includes(noFunction)) throw notFunction(kind, 'it is something else');
    }
    return sources as HookSources;
  }

  /**
   * The hooks of a bucket.
   * @throws UnknownHookError where this server cannot run one of them
   */
  chainsOf(bucket: string, sources: HookSources): HookChains {
    let chains = this.#chains.get(sources);
    if (chains === undefined) {
      chains = {
        pre: sources.pre.map((source) => this.#named(bucket, source)),
        post: sources.post.map((source) => this.#named(bucket, source)),
      };
      this.#chains.set(sources, chains);
    }
    return chains;
  }

  #named(bucket: string, source: string): NamedHook {
    const name = labelOf(source);
    let run: Hook | typeof noFunction = noFunction;
    let cause: unknown;
    try {
      run = this.#find(source);
    } catch (error) {
      cause = error;
    }
    if (run !== noFunction) return { name, run };
    throw new CongerError(
      'UnknownHookError',
      `${bucket} takes no writes here: this server cannot run its hook "${name}"; register it (CONGER_HOOKS)`,
      { context: { bucket, hook: name }, cause },
    );
  }

  /** @throws Error saying why there is no such hook */
  #find(source: unknown): Hook | typeof noFunction {
    if (typeof source !== 'string') return noFunction;
    const name = nameIn(source);
    const registered = name === undefined ? undefined : this.#registered.get(name);
    if (registered !== undefined) return registered;
    if (!this.#trusting) {
      throw new Error(
        `"${labelOf(source)}" is no registered hook, and this server runs no code that clients send; register it by its name (CONGER_HOOKS)`,
      );
    }
    const evaluated = this.#evaluated.get(source) ?? evaluateHook(source);
    if (evaluated === undefined) return noFunction;
    this.#evaluated.set(source, evaluated);
    return evaluated;
  }
}

function notFunction(what: string, why: string, cause?: unknown): CongerError {
  return new CongerError('NotFunctionError', `${what} must be [Function]: ${why}`, { cause });
}
