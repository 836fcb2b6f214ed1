import { afterEach, describe, expect, test, vi } from 'vitest';
import { Random } from '../random.ts';
import { readCorpus } from './corpus.ts';
import { fuzz } from './fuzzer.ts';
import { mutate } from './mutate.ts';
import type { Target } from './target.ts';
import { targets } from './targets/index.ts';

vi.setConfig({ testTimeout: 240_000 });

/** The short form of `npm run fuzz`: the whole corpus, and a few thousand inputs from fixed seeds. */
const executions: Readonly<Record<string, number>> = {
  framing: 5_000,
  session: 500,
  filter: 5_000,
  arguments: 300,
};

describe.each(Object.entries(targets))('%s', (name, target) => {
  afterEach(() => target.close());

  test('holds on the corpus and on new inputs', async () => {
    const corpus = await readCorpus(name);
    expect(corpus.length).toBeGreaterThan(0);
    const more = (done: number) => done < corpus.length + (executions[name] ?? 0);
    const report = await fuzz({ target, corpus, seed: 4, more, guided: false });
    if (report.failure !== undefined) {
      const { input, error } = report.failure;
      throw new Error(`failed on ${input.toString('hex')} (${input.toString()})`, { cause: error });
    }
    expect(report.executions).toBeGreaterThanOrEqual(corpus.length + (executions[name] ?? 0));
  });
});

describe('the fuzzer', () => {
  /** Fails on what begins with `abc`, which is one of some thousand ways to put these together. */
  const target: Target = {
    name: 'lock',
    notation: 'txt',
    modules: /fuzz\.pg\.test/,
    words: ['a', 'b', 'c'],
    generate: () => Buffer.from('zzzz'),
    run(input) {
      if (input[0] === 0x61) {
        if (input[1] === 0x62) {
          if (input[2] === 0x63) throw new Error('it is open');
        }
      }
    },
    close: async () => {},
  };

  test('is led by the code that inputs reach, and makes what fails small', async () => {
    const more = (done: number) => done < 3_000;
    const { failure, found } = await fuzz({ target, corpus: [], seed: 1, more, guided: true });
    expect(failure?.input.toString()).toBe('abc');
    expect(found.length).toBeGreaterThanOrEqual(2);
  });

  test('makes the same inputs of the same seed', () => {
    const inputs = (seed: number) => {
      const random = new Random(seed);
      return Array.from({ length: 50 }, () =>
        mutate(random, Buffer.from('one'), Buffer.from('two'), ['w']).toString('hex'),
      );
    };
    expect(inputs(1)).toEqual(inputs(1));
    expect(inputs(1)).not.toEqual(inputs(2));
  });
});
