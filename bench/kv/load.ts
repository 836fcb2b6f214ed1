export interface Load {
  readonly perSecond: number;
  readonly operations: number;
  /** Milliseconds of each operation that ended well, sorted. */
  readonly durations: Float64Array;
  /** How often each error was met, by its name. */
  readonly errors: ReadonlyMap<string, number>;
}

/** Runs `operation` from `concurrency` loops for `ms` milliseconds; a loop's number is its argument. */
export async function load(
  operation: (loop: number) => Promise<unknown>,
  concurrency: number,
  ms: number,
): Promise<Load> {
  const durations: number[] = [];
  const errors = new Map<string, number>();
  const started = performance.now();
  const end = started + ms;
  const run = async (loop: number) => {
    for (let start = performance.now(); start < end; start = performance.now()) {
      try {
        await operation(loop);
        durations.push(performance.now() - start);
      } catch (error) {
        const name = error instanceof Error ? error.name : String(error);
        errors.set(name, (errors.get(name) ?? 0) + 1);
      }
    }
  };
  await Promise.all(Array.from({ length: concurrency }, (_, loop) => run(loop)));
  const seconds = (performance.now() - started) / 1000;
  return {
    perSecond: durations.length / seconds,
    operations: durations.length,
    durations: Float64Array.from(durations).sort(),
    errors,
  };
}
