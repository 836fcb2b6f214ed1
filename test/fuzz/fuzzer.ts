import { messageOf } from '../../runtime/errors.ts';
import { Random } from '../random.ts';
import { Coverage } from './coverage.ts';
import { mutate } from './mutate.ts';
import type { Target } from './target.ts';

export interface FuzzOptions {
  readonly target: Target;
  readonly corpus: readonly Buffer[];
  readonly seed: number;
  /** Whether to go on after so many executions. */
  readonly more: (executions: number) => boolean;
  /** Keep what reaches new code, and try more of its kind. Takes V8's coverage, which a debugger would have too. */
  readonly guided: boolean;
}

export interface Failure {
  readonly input: Buffer;
  readonly error: unknown;
}

export interface FuzzReport {
  readonly executions: number;
  /** Characters of source reached by the corpus alone, and in the end. */
  readonly reached: readonly [corpus: number, end: number];
  /** Inputs that reached new code. */
  readonly found: readonly Buffer[];
  readonly failure: Failure | undefined;
  /** Bytes of heap after a garbage collection, once warm and at the end; undefined without --expose-gc. */
  readonly heap: readonly [warm: number, end: number] | undefined;
}

const batch = 32;
const maxInput = 16 * 1024;
/** Executions after which caches and compiled code are what they stay. */
const warmUp = 2_000;

/** Tries the corpus, then inputs made from it and from nothing, until `more` says no or something fails. */
export async function fuzz({ target, corpus, seed, more, guided }: FuzzOptions): Promise<FuzzReport> {
  const random = new Random(seed);
  const coverage = guided ? new Coverage(target.modules) : undefined;
  const pool = [...corpus];
  const found: Buffer[] = [];
  let executions = 0;
  let failure: Failure | undefined;
  let warm: number | undefined;

  const attempt = async (input: Buffer): Promise<boolean> => {
    executions++;
    try {
      await target.run(input);
      return true;
    } catch (error) {
      failure = { input, error };
      return false;
    }
  };
  const next = (): Buffer => {
    if (pool.length === 0 || random.below(4) === 0) return target.generate(random);
    const mutated = mutate(random, random.pick(pool), random.pick(pool), target.words);
    const input = target.mend !== undefined && random.below(4) > 0 ? target.mend(random, mutated) : mutated;
    return input.subarray(0, maxInput);
  };

  try {
    for (const input of corpus) if (!(await attempt(input))) break;
    coverage?.look(true);
    const atStart = coverage?.size ?? 0;
    while (failure === undefined && more(executions)) {
      const inputs = Array.from({ length: batch }, next);
      for (const input of inputs) if (!(await attempt(input))) break;
      if (failure === undefined && coverage?.look(false)) {
        for (const input of inputs) {
          await attempt(input);
          if (!coverage.look(true)) continue;
          pool.push(input);
          found.push(input);
        }
      }
      if (warm === undefined && executions >= warmUp) warm = heapUsed();
    }
    const end = heapUsed();
    return {
      executions,
      reached: [atStart, coverage?.size ?? 0],
      found,
      failure: failure && (await smallest(target, failure)),
      heap: warm === undefined || end === undefined ? undefined : [warm, end],
    };
  } finally {
    coverage?.stop();
  }
}

function heapUsed(): number | undefined {
  if (globalThis.gc === undefined) return undefined;
  globalThis.gc();
  return process.memoryUsage().heapUsed;
}

/** Leaves out pieces of the input as long as it fails in the same words. */
async function smallest(target: Target, failure: Failure): Promise<Failure> {
  const words = messageOf(failure.error).slice(0, 24);
  let least = failure;
  for (let size = least.input.length >> 1; size >= 1; size >>= 1) {
    for (let at = 0; at < least.input.length; ) {
      const input = Buffer.concat([least.input.subarray(0, at), least.input.subarray(at + size)]);
      const error = await Promise.resolve()
        .then(() => target.run(input))
        .then(
          () => undefined,
          (e: unknown) => e,
        );
      if (error !== undefined && messageOf(error).slice(0, 24) === words) least = { input, error };
      else at += size;
    }
  }
  return least;
}
