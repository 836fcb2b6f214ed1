import { fork } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, expect, test } from 'vitest';
import { failpoints } from './failpoint-names.ts';
import { armFailpoints, FailpointError, failpoint, failpointNow } from './failpoints.ts';

const name = 'capture.append.before';
const other = 'capture.append.after';

afterEach(() => armFailpoints(''));

test('unarmed, passing is nothing', () => {
  expect(failpoint(name)).toBeUndefined();
  failpointNow(name);
});

test('an error comes at the passing that the plan names, and at no other', async () => {
  armFailpoints(`${name}=error@3`);
  await failpoint(name);
  await failpoint(other);
  await failpoint(name);
  await expect(failpoint(name)).rejects.toThrow(FailpointError);
  await failpoint(name);
});

test('a place that cannot wait throws, and pauses all of the process', () => {
  armFailpoints(`${name}=delay:30,${other}=error`);
  const start = performance.now();
  failpointNow(name);
  expect(performance.now() - start).toBeGreaterThan(29);
  expect(() => failpointNow(other)).toThrow(FailpointError);
});

test('what is drawn follows from the seed', async () => {
  const run = async (seed: number) => {
    armFailpoints(`seed=${seed},${name}=error%0.5`);
    const drawn: boolean[] = [];
    for (let i = 0; i < 64; i++) {
      drawn.push(await (failpoint(name) ?? Promise.resolve()).then(() => false).catch(() => true));
    }
    return drawn;
  };
  const first = await run(7);
  expect(first.filter(Boolean).length).toBeGreaterThan(10);
  expect(first.filter(Boolean).length).toBeLessThan(54);
  expect(await run(7)).toEqual(first);
  expect(await run(8)).not.toEqual(first);
});

test.each(['capture.append.befor=kill', `${name}=explode`, `${name}`, `${name}=delay`, `${name}=kill@x`])(
  'the plan %s is refused',
  (plan) => {
    expect(() => armFailpoints(plan)).toThrow(/failpoint/);
  },
);

test('every name says its area, its step, and on which side of it', () => {
  for (const one of Object.keys(failpoints)) expect(one).toMatch(/^[a-z]+(\.[a-z]+)+\.(before|after)$/);
  expect(Object.keys(failpoints).length).toBeGreaterThanOrEqual(40);
});

test('every name is passed in one place at least', async () => {
  const root = new URL('..', import.meta.url);
  const sources = ['changefeed', 'kvstore'].map(async (directory) => {
    const files = await readdir(new URL(directory, root), { recursive: true });
    const code = files.filter((file) => file.endsWith('.ts') && !file.endsWith('.test.ts'));
    return Promise.all(code.map((file) => readFile(new URL(`${directory}/${file}`, root), 'utf8')));
  });
  const all = (await Promise.all(sources)).flat().join('\n');
  const unused = Object.keys(failpoints).filter((one) => !all.includes(`('${one}')`));
  expect(unused).toEqual([]);
});

test('a process is killed at its failpoint, and the trace tells', async () => {
  const directory = await mkdtemp(join(tmpdir(), 'conger-failpoints-'));
  try {
    const trace = join(directory, 'trace');
    const program = join(directory, 'program.mjs');
    const built = new URL('../dist/runtime/failpoints.js', import.meta.url).href;
    await writeFile(
      program,
      `import { armFailpoints, failpoint } from ${JSON.stringify(built)};
       armFailpoints(${JSON.stringify(`${name}=kill@2`)}, ${JSON.stringify(trace)});
       await failpoint(${JSON.stringify(other)});
       for (;;) await failpoint(${JSON.stringify(name)});`,
    );
    const [, signal] = await once(fork(program), 'exit');
    expect(signal).toBe('SIGKILL');
    expect((await readFile(trace, 'utf8')).trim().split('\n')).toEqual([other, name, `${name} kill 2`]);
  } finally {
    await rm(directory, { recursive: true });
  }
});
