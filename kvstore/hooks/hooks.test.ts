import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { silentLogger } from '../../runtime/log.ts';
import { type Hook, type HookRequest, labelOf, nameIn } from './hook.ts';
import { Hooks } from './hooks.ts';
import { loadHooks } from './loader.ts';
import { HookFailed, runHooks } from './run.ts';
import { evaluateHook } from './sandbox.ts';

let directory: string;

beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), 'conger-hooks-'));
});

afterAll(() => rm(directory, { recursive: true, force: true }));

async function module(name: string, text: string): Promise<string> {
  const path = join(directory, `${name}.mjs`);
  await writeFile(path, text);
  return path;
}

function request(): HookRequest {
  return {
    bucket: 'b',
    key: 'k',
    value: { n: 1 },
    schema: {},
    headers: {},
    log: silentLogger(),
    update: false,
    pg: { query: async () => [{ n: 1 }, { n: 2 }] },
  };
}

function evaluated(source: string): Hook {
  const hook = evaluateHook(source);
  if (hook === undefined) throw new Error(`${source} is no function`);
  return hook;
}

test('a name is a bare word, or that of a function’s text', () => {
  expect(nameIn('setUid')).toBe('setUid');
  expect(nameIn('function setUid(req, cb) { cb(); }')).toBe('setUid');
  expect(nameIn('  async function\n setUid (req) {}')).toBe('setUid');
  expect(nameIn('function (req, cb) { function inner() {} cb(); }')).toBeUndefined();
  expect(nameIn('(req, cb) => cb()')).toBeUndefined();
  expect(labelOf('function (req, cb) {\n  cb(); /* and a long story after it */ }')).toBe(
    'function (req, cb) { cb(); /* and a long',
  );
});

test('modules are loaded, and what is wrong with one is said', async () => {
  const good = await module('good', 'export const hooks = { a: async () => {}, b(request) {} };');
  expect([...(await loadHooks([good])).keys()]).toEqual(['a', 'b']);
  expect((await loadHooks([])).size).toBe(0);

  const again = await module('again', 'export const hooks = { b() {} };');
  await expect(loadHooks([good, again])).rejects.toThrow(/again\.mjs: there is a hook "b" already/);
  const none = await module('none', 'export default 1;');
  await expect(loadHooks([none])).rejects.toThrow(/none\.mjs: hooks: /);
  const wrong = await module('wrong', 'export const hooks = { a: 5 };');
  await expect(loadHooks([wrong])).rejects.toThrow(/wrong\.mjs: hooks\.a: should be a function/);
  const named = await module('named', 'export const hooks = { "a b": () => {} };');
  await expect(loadHooks([named])).rejects.toThrow(/named\.mjs: hooks\.a b: /);
  await expect(loadHooks([join(directory, 'missing.mjs')])).rejects.toThrow(/missing\.mjs/);
});

test('a registered hook goes before code of its name, also where code is run', async () => {
  const ran: string[] = [];
  const hooks = new Hooks(new Map([['mine', () => void ran.push('registered')]]), true);
  const sources = hooks.check({ pre: ['function mine(req, cb) { cb(new Error("sent")); }'], post: [] });
  await runHooks(hooks.chainsOf('b', sources).pre, request());
  expect(ran).toEqual(['registered']);
});

test('hooks of a bucket that cannot be run have an error that names them', () => {
  const hooks = new Hooks(new Map(), false);
  const sources = { pre: [], post: ['function audit(req, cb) { cb(); }'] };
  expect(() => hooks.chainsOf('b', sources)).toThrow(/b takes no writes here: .*"audit"/);
});

test('the first error ends a chain', async () => {
  const ran: string[] = [];
  const chain = ['one', 'two', 'three'].map((name) => ({
    name,
    run: () => {
      ran.push(name);
      if (name === 'two') throw new TypeError('two is wrong');
    },
  }));
  const failed = await runHooks(chain, request()).catch((e: unknown) => e);
  expect(failed).toBeInstanceOf(HookFailed);
  expect(failed).toMatchObject({ name: 'TypeError', message: 'two is wrong', context: { hook: 'two' } });
  expect(ran).toEqual(['one', 'two']);
});

test('whatever is thrown is an error', async () => {
  for (const thrown of ['text', 5, null, { message: 'shaped' }]) {
    const chain = [{ name: 'odd', run: () => Promise.reject(thrown) }];
    await expect(runHooks(chain, request())).rejects.toMatchObject({
      name: 'Error',
      message: typeof thrown === 'object' && thrown !== null ? 'shaped' : String(thrown),
    });
  }
});

test('a hook that is never done is given up', async () => {
  const chain = [{ name: 'idle', run: () => new Promise<void>(() => {}) }];
  await expect(runHooks(chain, request(), 20)).rejects.toMatchObject({
    name: 'HookTimeoutError',
    context: { hook: 'idle' },
  });
});

test('code changes and replaces the value, and counts its first answer only', async () => {
  const req = request();
  await evaluated('function (req, cb) { req.value.n = 2; req.key = "new"; cb(); cb(new Error("late")); }')(
    req,
  );
  expect([req.key, req.value]).toEqual(['new', { n: 2 }]);
  await evaluated('(req, cb) => { req.value = { replaced: true }; cb(); }')(req);
  expect(req.value).toEqual({ replaced: true });
});

test('code may be an async function without a callback', async () => {
  const req = request();
  await evaluated('async (req) => { await null; req.value.n = 3; }')(req);
  expect(req.value).toEqual({ n: 3 });
  await expect(evaluated('async (req) => { await null; throw new TypeError("no"); }')(req)).rejects.toThrow(
    'no',
  );
});

test('code has no process, no timers, and only its own globals', async () => {
  const source = `function (req, cb) {
    cb(null, req.value.seen = [typeof process, typeof setTimeout, typeof module, typeof Buffer].join());
  }`;
  const req = request();
  await evaluated(source)(req);
  expect(req.value?.seen).toBe('undefined,undefined,undefined,undefined');
});

test('code is cut off where it loops, in each of its pauses', async () => {
  const timeout = { name: 'HookTimeoutError' };
  await expect(evaluated('function (req, cb) { for (;;); }')(request())).rejects.toMatchObject(timeout);
  const later = "function (req, cb) { req.pg.query('x').on('row', function () { for (;;); }); }";
  await expect(evaluated(later)(request())).rejects.toMatchObject(timeout);
  const promised = 'function (req, cb) { Promise.resolve().then(function () { for (;;); }); }';
  await expect(evaluated(promised)(request())).rejects.toMatchObject(timeout);
  expect(() => evaluateHook('(function () { for (;;); })()')).toThrow(/timed out/);
});

test('code that is cut off while the process is held up is evaluated again, a few times', async () => {
  const heldUp = (times: number) => `(function () {
    this.tries = (this.tries || 0) + 1;
    if (this.tries <= ${times}) Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 400);
    return function (req, cb) { cb(); };
  })()`;
  await evaluated(heldUp(2))(request());
  expect(() => evaluated(heldUp(3))).toThrow(/timed out/);
});

test('code that throws, at once or later, fails', async () => {
  await expect(evaluated('function (req, cb) { req.nothing.at.all; }')(request())).rejects.toMatchObject({
    name: 'TypeError',
  });
  const later =
    "function (req, cb) { req.pg.query('x').on('end', function () { throw new Error('late'); }); }";
  await expect(evaluated(later)(request())).rejects.toThrow('late');
});

test('the modules that code may require', async () => {
  const source = `function (req, cb) {
    var crc = require('crc'), microtime = require('microtime');
    req.value = { crc: crc.hex32(crc.crc32('123456789')), now: microtime.now(), struct: microtime.nowStruct() };
    cb();
  }`;
  const req = request();
  await evaluated(source)(req);
  expect(req.value).toMatchObject({ crc: 'CBF43926' });
  const { now, struct } = req.value as { now: number; struct: [number, number] };
  expect(Math.abs(now / 1000 - Date.now())).toBeLessThan(5000);
  expect(struct[0] * 1e6 + struct[1] - now).toBeLessThan(1e6);
});
