import { type ChildProcess, spawn } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { afterEach, expect, it } from 'vitest';
import { findByLastArguments } from './processes.ts';

const children: ChildProcess[] = [];

afterEach(() => {
  for (const child of children.splice(0)) child.kill('SIGKILL');
});

/** A process that waits, with these as its last arguments. */
async function waiting(...args: string[]): Promise<number> {
  const script = 'console.log("up"); setInterval(() => {}, 1000)';
  const child = spawn(process.execPath, ['-e', script, '--', ...args], {
    stdio: ['ignore', 'pipe', 'ignore'],
  });
  children.push(child);
  await once(child.stdout, 'data');
  return child.pid ?? 0;
}

it('finds a process by all of its last arguments, and no other that shares the last one', async () => {
  const home = `/tmp/a b.${randomUUID()}`;
  const own = await waiting('/x y/kvstore/main.js', 'kvstore0', home);
  await waiting('--home', home);
  await waiting('main.js', 'kvstore0', `${home}2`);
  await waiting('main.js', 'kvstore0', home.replace('b.', 'bx'));
  expect(await findByLastArguments(/.*main\.js/, /[a-z]+\d+/, home)).toEqual([own]);
});
