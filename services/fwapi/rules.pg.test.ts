import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest';
import { setupVmapi } from '../vmapi/setup.ts';
import { newVm, type Obj, startFwapi, type TestFwapi } from './testing/fwapi.ts';

// Everything here waits for PostgreSQL's disk.
vi.setConfig({ testTimeout: 180_000, hookTimeout: 240_000 });

let fwapi: TestFwapi;
beforeAll(async () => {
  fwapi = await startFwapi(2);
  await fwapi.stack.start('vmapi', (context) => setupVmapi(context));
});
afterAll(() => fwapi?.close());

interface Rule extends Obj {
  readonly uuid: string;
  readonly version: string;
}
const call = <T = Obj>(method: string, ...args: unknown[]) => fwapi.client().call<T>(method, ...args);
const refused = (method: string, ...args: unknown[]) => fwapi.client().refused(method, ...args);
const owned = (owner: string, rule: string, more: Obj = {}) => ({
  rule,
  owner_uuid: owner,
  enabled: true,
  ...more,
});
const invalid = (field: string, message: string) => ({ field, code: 'InvalidParameter', message });
const refusal = (...errors: readonly object[]) => ({
  status: 422,
  body: { code: 'InvalidParameters', message: 'Invalid parameters', errors },
});
const forbidden = {
  status: 403,
  body: {
    code: 'Forbidden',
    message: 'owner does not match',
    errors: [invalid('owner_uuid', 'owner_uuid does not match')],
  },
};
const text = 'FROM tag "role" = "web" TO tag "role" = "db" ALLOW tcp PORT 5432';

describe('rules', () => {
  test('are made, found, changed and deleted, in Triton’s form', async () => {
    const owner = randomUUID();
    const params = owned(owner, 'FROM tag role = web TO tag role = db ALLOW tcp PORT 5432');
    const made = await fwapi.client().answer<Rule>('createRule', { ...params, description: 'it is' });
    expect(made.status).toBe(202);
    expect(made.headers['x-update-id']).toBe(made.headers['x-request-id']);
    expect(made.body).toEqual({
      uuid: expect.any(String),
      version: expect.stringMatching(/^\d+\.\d{6}$/),
      rule: text,
      owner_uuid: owner,
      enabled: true,
      log: false,
      description: 'it is',
    });
    const { uuid } = made.body;
    expect(await call('getRule', uuid, { owner_uuid: owner })).toEqual(made.body);
    const changed = await fwapi.client().answer<Rule>('updateRule', uuid, { enabled: 'false', log: true });
    expect(changed.status).toBe(202);
    expect(changed.headers['x-update-id']).toBeDefined();
    expect(changed.body).toEqual({
      ...made.body,
      enabled: false,
      log: true,
      version: expect.any(String),
    });
    expect(changed.body.version > made.body.version).toBe(true);
    const deleted = await fwapi.client().answer('deleteRule', uuid, { owner_uuid: owner });
    expect([deleted.status, typeof deleted.headers['x-update-id']]).toEqual([204, 'string']);
    const gone = { status: 404, body: { code: 'ResourceNotFound', message: 'Rule not found' } };
    expect(await refused('getRule', uuid, {})).toEqual(gone);
    expect(await refused('updateRule', uuid, { enabled: true })).toEqual(gone);
    expect(await refused('deleteRule', uuid, {})).toEqual(gone);
  });

  test('a repeat of the request that made one is answered with it, and another’s is refused', async () => {
    const body = owned(randomUUID(), text);
    const key = { 'idempotency-key': randomUUID() };
    const answers = await Promise.all([1, 2, 3].map(() => fwapi.request('POST', '/rules', body, key)));
    expect(new Set(answers.map((answer) => answer.body.uuid)).size).toBe(1);
    const { uuid } = answers[0]?.body ?? {};
    expect(await refused('createRule', { ...body, uuid })).toEqual({
      status: 422,
      body: {
        code: 'RuleExistsError',
        message: 'rule already exists',
        errors: [{ field: 'uuid', code: 'Duplicate', message: 'Already exists' }],
      },
    });
  });

  test('changes made at once are all there', async () => {
    const owner = randomUUID();
    const { uuid } = await call<Rule>('createRule', owned(owner, text));
    await Promise.all([
      call('updateRule', uuid, { description: 'new' }),
      call('updateRule', uuid, { log: true }),
      call('updateRule', uuid, { enabled: false }),
      call('updateRule', uuid, { rule: 'FROM any TO all vms ALLOW tcp PORT 80' }),
    ]);
    expect(await call('getRule', uuid, {})).toMatchObject({
      description: 'new',
      log: true,
      enabled: false,
      rule: 'FROM any TO all vms ALLOW tcp PORT 80',
      owner_uuid: owner,
    });
  });

  test('are their owner’s; a global one is nobody’s', async () => {
    const { uuid } = await call<Rule>('createRule', owned(randomUUID(), text));
    const stranger = { owner_uuid: randomUUID() };
    expect(await refused('getRule', uuid, stranger)).toEqual(forbidden);
    expect(await refused('updateRule', uuid, stranger)).toEqual(forbidden);
    expect(await refused('deleteRule', uuid, stranger)).toEqual(forbidden);
    expect(await refused('getRuleVMs', uuid, stranger)).toEqual(forbidden);
    const everyones = { rule: 'FROM any TO all vms ALLOW udp PORT 5000', enabled: true, global: true };
    const global = await call<Rule>('createRule', everyones);
    expect(global).toMatchObject({ global: true });
    expect(global).not.toHaveProperty('owner_uuid');
    expect(await refused('updateRule', global.uuid, { ...stranger, enabled: false })).toEqual(forbidden);
    expect(await refused('deleteRule', global.uuid, stranger)).toEqual(forbidden);
    expect(await call('updateRule', global.uuid, { enabled: false })).toMatchObject({
      global: true,
      enabled: false,
    });
    await call('deleteRule', global.uuid, {});
  });
});

describe('lists', () => {
  test('filters, fields and pages', async () => {
    const owner = randomUUID();
    const vm = randomUUID();
    const rules = new Map<string, string>();
    for (const [name, rule, more] of [
      ['subnet', 'FROM all vms TO subnet 10.2.1.0/24 ALLOW tcp PORT 5001', { log: true }],
      ['ip', 'FROM ip 192.168.1.1 TO all vms BLOCK udp PORT all', {}],
      ['tag', 'FROM tag "foo" TO tag "side" = "two" ALLOW tcp PORT 5003', { enabled: false }],
      ['value', 'FROM (tag "foo" = "bar" OR tag "foo" = "baz") TO any BLOCK icmp TYPE 8 CODE 0', {}],
      ['vm', `FROM any TO vm ${vm} ALLOW esp`, {}],
    ] as const) {
      const made = await call<Rule>('createRule', owned(owner, rule, more));
      rules.set(made.uuid, name);
    }
    const found = async (query: Obj) =>
      (await call<Rule[]>('listRules', { owner_uuid: owner, ...query }))
        .map(({ uuid }) => rules.get(uuid))
        .sort();
    expect(await found({})).toEqual(['ip', 'subnet', 'tag', 'value', 'vm']);
    expect(await found({ subnet: '10.2.1.0/24' })).toEqual(['subnet']);
    expect(await found({ ip: '192.168.1.1' })).toEqual(['ip']);
    expect(await found({ vm })).toEqual(['vm']);
    expect(await found({ tag: 'foo' })).toEqual(['tag', 'value']);
    expect(await found({ tag: 'foo=bar' })).toEqual(['tag', 'value']);
    expect(await found({ tag: 'foo=other' })).toEqual(['tag']);
    expect(await found({ tag: ['side', 'nothing'] })).toEqual(['tag']);
    expect(await found({ wildcard: 'vmall' })).toEqual(['ip', 'subnet']);
    expect(await found({ protocol: 'esp' })).toEqual(['vm']);
    expect(await found({ action: 'block' })).toEqual(['ip', 'value']);
    expect(await found({ enabled: false })).toEqual(['tag']);
    expect(await found({ log: true })).toEqual(['subnet']);
    expect(await found({ owner_uuid: randomUUID() })).toEqual([]);
    const pages = await Promise.all(
      [0, 2, 4].map((offset) => call<Rule[]>('listRules', { owner_uuid: owner, limit: 2, offset })),
    );
    expect(new Set(pages.flat().map(({ uuid }) => uuid)).size).toBe(5);
    const fields = ['parsed.action', 'parsed.ports', 'parsed.protocol', 'parsed.tags'];
    const parsed = await call<{ uuid: string; parsed: Obj }[]>('listRules', { owner_uuid: owner, fields });
    expect(Object.fromEntries(parsed.map((rule) => [rules.get(rule.uuid), rule.parsed]))).toMatchObject({
      ip: { action: 'block', protocol: 'udp', ports: ['all'], fromtags: {}, totags: {} },
      tag: {
        ports: [5003],
        fromtags: { foo: { all: true, values: [] } },
        totags: { side: { all: false, values: ['two'] } },
      },
      value: { fromtags: { foo: { all: false, values: ['bar', 'baz'] } } },
    });
  });

  test.each([
    [{ action: 'drop' }, invalid('action', 'action must be "block" or "allow"')],
    [{ enabled: 'maybe' }, invalid('enabled', 'must be a boolean value')],
    [{ owner_uuid: 'x' }, { ...invalid('owner_uuid', 'invalid UUID'), invalid: ['x'] }],
    [{ ip: '1.2.3' }, { ...invalid('ip', 'invalid IP'), invalid: ['1.2.3'] }],
    [{ fields: 'parsed.all' }, { ...invalid('fields', 'unknown field specified'), invalid: ['parsed.all'] }],
    [
      { colour: 'red' },
      { field: ['colour'], code: 'UnknownParameters', message: 'Unknown parameters: colour' },
    ],
  ])('%j is refused', async (query, error) => {
    expect(await refused('listRules', query)).toEqual(refusal(error));
  });
});

test('the machines of a rule and the rules of a machine', async () => {
  const [owner, other] = [randomUUID(), randomUUID()];
  const web = await fwapi.putVm(newVm(owner, { tag_map: { role: 'web' } }));
  const db = await fwapi.putVm(newVm(owner, { tag_map: { role: 'db' } }));
  const plain = await fwapi.putVm(newVm(owner));
  await fwapi.putVm(newVm(owner, { tag_map: { role: 'db' }, state: 'destroyed' }));
  await fwapi.putVm(newVm(other, { tag_map: { role: 'web' } }));
  const tags = await call<Rule>('createRule', owned(owner, text));
  const named = await call<Rule>('createRule', owned(owner, `FROM any TO vm ${plain.uuid} BLOCK ah`));
  const global = await call<Rule>('createRule', {
    rule: 'FROM any TO all vms ALLOW icmp TYPE 8',
    enabled: false,
    global: true,
  });
  const vmsOf = async (rule: Rule, owner_uuid: string) =>
    (await call<Rule[]>('getRuleVMs', rule.uuid, { owner_uuid })).map(({ uuid }) => uuid).sort();
  expect(await vmsOf(tags, owner)).toEqual([web.uuid, db.uuid].sort());
  const [asVmapi] = await call<Obj[]>('getRuleVMs', named.uuid, { owner_uuid: owner });
  expect(asVmapi).toMatchObject({ uuid: plain.uuid, brand: 'joyent', tags: {}, nics: plain.nics });
  expect(await vmsOf(named, owner)).toEqual([plain.uuid]);
  expect(await vmsOf(global, owner)).toEqual([web.uuid, db.uuid, plain.uuid].sort());
  expect(await vmsOf(global, randomUUID())).toEqual([]);
  const rulesOf = async (uuid: string) =>
    (await call<Rule[]>('getVMrules', uuid, {})).map((rule) => rule.uuid).sort();
  expect(await rulesOf(web.uuid)).toEqual([tags.uuid, global.uuid].sort());
  expect(await rulesOf(plain.uuid)).toEqual([named.uuid, global.uuid].sort());
  expect(await refused('getVMrules', randomUUID(), {})).toMatchObject({
    status: 404,
    body: { code: 'ResourceNotFound' },
  });
  expect(await refused('getRuleVMs', tags.uuid, {})).toEqual({
    status: 409,
    body: { code: 'MissingParameter', message: '"owner_uuid" parameter required' },
  });
  await call('deleteRule', global.uuid, {});
});

describe('wrong parameters are told in Triton’s words, and nothing is written', () => {
  const owner = randomUUID();
  const good = 'FROM tag a TO tag b ALLOW udp PORT 53';

  test.each<[string, Obj, readonly object[]]>([
    ['no owner', { rule: good, enabled: true }, [invalid('owner_uuid', 'owner_uuid required')]],
    [
      'enabled',
      owned(owner, good, { enabled: 'hello' }),
      [invalid('enabled', 'enabled must be true or false')],
    ],
    [
      'global and log',
      { rule: good, global: 'foobar', log: 1 },
      [invalid('global', 'global must be true or false'), invalid('log', 'log must be true or false')],
    ],
    [
      'global and owned',
      owned(owner, good, { global: true }),
      [invalid('global', 'cannot specify both global and owner_uuid')],
    ],
    [
      'host bits',
      owned(owner, 'FROM tag foo TO subnet 10.8.0.0/5 ALLOW udp port 53'),
      [invalid('rule', 'Subnet "10.8.0.0/5" is invalid (bits set to right of mask)')],
    ],
    [
      'a port',
      owned(owner, 'FROM tag foo TO subnet 10.8.0.0/24 ALLOW udp port 65537'),
      [invalid('rule', 'Port number "65537" is invalid')],
    ],
    [
      'families',
      owned(owner, 'FROM all vms TO ip fd00::45 BLOCK ICMP TYPE 8'),
      [invalid('rule', 'rule affects ICMPv4 but contains a non-IPv4 address')],
    ],
    ['a number', owned(owner, good, { rule: 5 }), [invalid('rule', 'rule must be a string')]],
    ['an owner', owned('x', good), [invalid('owner_uuid', 'Invalid owner UUID')]],
    [
      'a rule that would keep the parser busy',
      owned(owner, `FROM (${'tag a OR '.repeat(20_000)}tag b) TO all vms ALLOW ah`),
      [invalid('rule', 'rule must be shorter than 65536 characters')],
    ],
    [
      'a long description',
      owned(owner, good, { description: 'x'.repeat(256) }),
      [invalid('description', 'description must be shorter than 255 characters')],
    ],
    [
      'an unknown field',
      owned(owner, good, { colour: 'red' }),
      [{ field: ['colour'], code: 'UnknownParameters', message: 'Unknown parameters: colour' }],
    ],
  ])('%s', async (_what, params, errors) => {
    expect(await refused('createRule', params)).toEqual(refusal(...errors));
    const { uuid } = await call<Rule>('createRule', owned(owner, good, { description: 'before' }));
    const { owner_uuid, ...rest } = params;
    if (_what !== 'no owner' && _what !== 'an owner') {
      expect((await fwapi.request('PUT', `/rules/${uuid}`, rest)).status).toBe(422);
      expect(await call('getRule', uuid, {})).toMatchObject({ description: 'before' });
    }
    await call('deleteRule', uuid, {});
    expect(await call('listRules', { owner_uuid: owner })).toEqual([]);
  });

  test.each([
    ['no rule', {}, 409, 'MissingParameter'],
    ['malformed JSON', '{"rule":', 400, 'InvalidContent'],
    ['a list', '[]', 422, 'InvalidParameters'],
    ['more than 1 MB', JSON.stringify({ rule: 'x'.repeat(1024 * 1024) }), 413, 'RequestEntityTooLarge'],
  ])('%s', async (_what, body, status, code) => {
    const answer = await fwapi.request('POST', '/rules', body);
    expect([answer.status, answer.body.code]).toEqual([status, code]);
    expect((await fwapi.request('GET', '/ping')).body.healthy).toBe(true);
  });
});

test('the OpenAPI document describes every route', async () => {
  const { status, body } = await fwapi.request('GET', '/docs/json');
  expect(status).toBe(200);
  expect(Object.keys(body.paths)).toEqual(
    expect.arrayContaining(['/rules', '/rules/{uuid}/vms', '/firewalls/vms/{uuid}']),
  );
});
