import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest';
import type { Instance } from '../../test/fixtures/stack.ts';
import { statusBucket, tasksBucket } from './models/buckets.ts';
import type { TaskRecord } from './models/task.ts';
import { type Obj, type RawAnswer, startCnapi, type TestCnapi } from './testing/cnapi.ts';

// Everything here waits for PostgreSQL's disk.
vi.setConfig({ testTimeout: 180_000, hookTimeout: 240_000 });

let cnapi: TestCnapi;
let server: string;
beforeAll(async () => {
  cnapi = await startCnapi(3);
  server = randomUUID();
  await cnapi.register(server);
  await cnapi.request('POST', `/servers/${server}/events/heartbeat`, {});
});
afterAll(() => cnapi?.close());

const instance = (n: number) => cnapi.instances[n] as Instance;
const nop = async (params: Obj = {}, at = instance(0)): Promise<string> =>
  (await cnapi.request('POST', `/servers/${server}/nop`, params, at)).body.id;
const finish = (id: string, body: unknown, at?: Instance) =>
  cnapi.request('POST', `/tasks/${id}/result`, body, at);

/** Asks for a task's end, and resolves once the instance waits for it. */
async function waiting(id: string, at: Instance): Promise<{ answer: Promise<RawAnswer> }> {
  const { broadcast } = at.context;
  const waitFor = broadcast.waitFor.bind(broadcast);
  const begun = new Promise<void>((resolve) => {
    vi.spyOn(broadcast, 'waitFor').mockImplementationOnce((options, check) => {
      resolve();
      return waitFor(options, check);
    });
  });
  const answer = cnapi.request('GET', `/tasks/${id}/wait`, undefined, at);
  await begun;
  return { answer };
}

describe('a task', () => {
  test('is waited for at another instance than made it and than got its result', async () => {
    const id = await nop({ sleep: 1 }, instance(0));
    expect(await cnapi.client().call('getTask', id, {})).toMatchObject({
      id,
      server_uuid: server,
      task: 'nop',
      params: { sleep: 1 },
      status: 'active',
      history: [],
    });
    const waits = [await waiting(id, instance(0)), await waiting(id, instance(1))];
    expect((await finish(id, { status: 'complete', result: { a: 1 } }, instance(2))).status).toBe(204);
    for (const { answer } of waits) {
      expect(await answer).toMatchObject({
        status: 200,
        body: { id, status: 'complete', history: [{ name: 'finish', event: { a: 1 } }] },
      });
    }
    expect(await cnapi.client().call('waitTask', id, { timeout: 10 })).toMatchObject({ status: 'complete' });
    expect(await cnapi.client().call('pollTask', id, {})).toMatchObject({ status: 'complete' });
  });

  test('that failed says why', async () => {
    const id = await nop();
    await finish(id, { status: 'failure', error: { message: 'it broke', code: 7 } });
    const task = await cnapi.client().call<TaskRecord>('getTask', id, {});
    expect(task).toMatchObject({
      status: 'failure',
      history: [{ name: 'error', event: { error: { message: 'it broke', code: 7 } } }],
    });
    await expect(cnapi.client().call('pollTask', id, {})).rejects.toThrow('task failed');
  });

  test('keeps its first result', async () => {
    const id = await nop();
    const results = [
      { status: 'complete', result: { n: 1 } },
      { status: 'complete', result: { n: 2 } },
      { status: 'failure', error: { message: 'no' } },
    ];
    const answers = await Promise.all(results.map((result) => finish(id, result)));
    expect(answers.map(({ status }) => status)).toEqual([204, 204, 204]);
    const { history } = await cnapi.client().call<TaskRecord>('getTask', id, {});
    expect(history).toHaveLength(1);
    await finish(id, { status: 'complete', result: { n: 3 } });
    expect((await cnapi.client().call<TaskRecord>('getTask', id, {})).history).toEqual(history);
  });

  test('is answered as it stands when the time is over', async () => {
    const id = await nop();
    expect(await cnapi.client().call('waitTask', id, { timeout: 1 })).toMatchObject({ id, status: 'active' });
  });

  test('that is not there is not waited for', async () => {
    for (const path of ['/tasks/none', '/tasks/none/wait'])
      expect(await cnapi.request('GET', path)).toEqual({
        status: 404,
        body: { code: 'ResourceNotFound', message: 'no such task found' },
      });
    expect((await finish('none', { status: 'complete' })).status).toBe(404);
  });

  test('is made once for a request that is repeated', async () => {
    const send = async () => {
      const answer = await fetch(`${instance(1).url}/servers/${server}/nop`, {
        method: 'POST',
        headers: { 'content-type': 'application/json', 'idempotency-key': 'once' },
        body: '{}',
      });
      return ((await answer.json()) as { id: string }).id;
    };
    const ids = await Promise.all([send(), send(), send()]);
    expect(new Set(ids).size).toBe(1);
    expect(await nop()).not.toBe(ids[0]);
    const history = await cnapi.request('GET', `/servers/${server}/task-history`);
    expect(history.body.filter(({ id }: { id: string }) => id === ids[0])).toHaveLength(1);
  });

  test('is not given to a server that does not run', async () => {
    const silent = randomUUID();
    await cnapi.register(silent);
    expect(await cnapi.request('POST', `/servers/${silent}/nop`, {})).toEqual({
      status: 409,
      body: { code: 'ServerNotRunning', message: 'Operation attempted on server which is not running' },
    });
    const nowhere = randomUUID();
    expect((await cnapi.request('POST', `/servers/${nowhere}/nop`, {})).status).toBe(404);
    expect(await cnapi.stack.kv.tryGet(statusBucket.name, nowhere)).toBeUndefined();
  });

  test.each<[string, unknown, number, string]>([
    ['no status', {}, 500, 'InvalidParameters'],
    ['another status', { status: 'active' }, 500, 'InvalidParameters'],
    ['a result that is none', { status: 'complete', result: 'x' }, 500, 'InvalidParameters'],
    ['an unknown field', { status: 'complete', colour: 1 }, 500, 'InvalidParameters'],
    ['malformed JSON', '{"status"', 400, 'InvalidContent'],
    [
      'more than 1 MB',
      JSON.stringify({ status: 'complete', result: { x: 'x'.repeat(1024 * 1024) } }),
      413,
      'RequestEntityTooLarge',
    ],
  ])('takes no result with %s', async (_what, body, status, code) => {
    const id = await nop();
    const answer = await finish(id, body);
    expect([answer.status, answer.body.code]).toEqual([status, code]);
    expect((await cnapi.stack.kv.get<TaskRecord>(tasksBucket.name, id)).value.status).toBe('active');
  });
});

test('an instance that ends lets those who wait ask another', async () => {
  const id = await nop();
  const ending = await cnapi.start();
  const { answer } = await waiting(id, ending);
  await ending.stop();
  expect(await answer).toMatchObject({ status: 503, body: { code: 'ServiceUnavailable' } });
  await finish(id, { status: 'complete' });
  expect((await cnapi.request('GET', `/tasks/${id}/wait`)).body.status).toBe('complete');
});
