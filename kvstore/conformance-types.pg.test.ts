import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { Moray } from '../test/fixtures/moray.ts';
import { type MorayServer, startMorayServer } from '../test/fixtures/moray-server.ts';

/** What filters on each type of index find, through the npm package `moray`. */

const types = {
  ...{ s: 'string', n: 'number', b: 'boolean', u: 'uuid', d: 'date', mac: 'mac', ip: 'ip', net: 'subnet' },
  ...{ nr: 'numrange', dr: 'daterange' },
};
/** Each but the ranges and uuid as an array as well, of the same name and an `a`. */
const arrays = Object.entries(types).filter(([, type]) => !['uuid', 'numrange', 'daterange'].includes(type));
const index = Object.fromEntries([
  ...Object.entries(types).map(([name, type]) => [name, { type }]),
  ...arrays.map(([name, type]) => [`${name}a`, { type: `[${type}]` }]),
]);

const day = (n: number) => `2024-01-0${n}T00:00:00.000Z`;
const uuid = (n: number) => `0000000${n}-0000-4000-8000-000000000000`;

const objects: Readonly<Record<string, Record<string, unknown>>> = {
  k1: {
    ...{ s: 'one', n: -1.5, b: true, u: uuid(1), d: day(1), mac: '00:00:00:00:00:01' },
    ...{ ip: '10.1.2.3', net: '10.1.0.0/16', nr: '[1,5)', dr: `[${day(1)},${day(3)})` },
  },
  k2: {
    ...{ s: 'two', n: 20, b: false, u: uuid(2), d: day(2), mac: '90:b8:d0:00:00:02' },
    ...{ ip: '::ffff:172.16.0.5', net: '::ffff:172.16.0.0/112', nr: '(5,]', dr: `(${day(3)},]` },
  },
  k3: {
    ...{ s: 'Three', n: 3e10, b: true, u: uuid(3), d: day(3), mac: 'ff:ff:ff:ff:ff:ff' },
    ...{ ip: 'fd00::3', net: 'fd00::/64', nr: '[,]', dr: '[,]' },
  },
  k4: { other: 'none of the fields' },
};
const all = ['k1', 'k2', 'k3'];

let server: MorayServer;
let client: Moray;

beforeAll(async () => {
  server = await startMorayServer();
  client = server.client;
  await client.createBucket('types', { index });
  for (const [key, object] of Object.entries(objects)) {
    const inArrays = arrays
      .filter(([name]) => object[name] !== undefined)
      .map(([name]) => [`${name}a`, [object[name]]]);
    await client.putObject('types', key, { ...object, ...Object.fromEntries(inArrays) });
  }
});

afterAll(async () => {
  await server?.stop();
});

async function keys(filter: string): Promise<string[]> {
  return (await client.findObjects('types', filter)).map(({ key }) => key).sort();
}

test('values are read as they were written', async () => {
  for (const [key, object] of Object.entries(objects)) {
    const { value } = await client.getObject('types', key);
    expect(value).toMatchObject(object);
    const wrapped = arrays.flatMap(([name]) =>
      object[name] === undefined ? [] : [[`${name}a`, [object[name]]]],
    );
    expect(value).toMatchObject(Object.fromEntries(wrapped));
  }
});

/** Each row: a filter's operator and value on a field, and what it finds there and in the array of the same. */
describe.each<[field: string, condition: string, found: string[]]>([
  ['s', '=one', ['k1']],
  ['s', '=*', all],
  ['s', '>=one', ['k1', 'k2']],
  ['s', ':caseIgnoreMatch:=THREE', ['k3']],
  ['n', '=20', ['k2']],
  ['n', '=-1.5', ['k1']],
  ['n', '<=20', ['k1', 'k2']],
  ['n', '>=30000000000', ['k3']],
  ['n', '=no number', []],
  ['n', ':within:=[-2,20\\)', ['k1']],
  ['n', ':within:=\\28-2,20]', ['k1', 'k2']],
  ['b', '=true', ['k1', 'k3']],
  ['b', '=FALSE', ['k2']],
  ['d', `=${day(2)}`, ['k2']],
  ['d', `>=${day(2)}`, ['k2', 'k3']],
  ['d', `:within:=[${day(1)},${day(2)}]`, ['k1', 'k2']],
  ['mac', '=90-B8-d0-0-0-2', ['k2']],
  ['mac', '>=90:b8:d0:00:00:02', ['k2', 'k3']],
  ['ip', '=10.1.2.3', ['k1']],
  ['ip', '=::ffff:ac10:5', ['k2']],
  ['ip', '=172.16.0.5', []],
  ['ip', ':within:=10.0.0.0/8', ['k1']],
  ['ip', ':within:=0.0.0.0/0', ['k1']],
  ['ip', ':within:=::ffff:0.0.0.0/96', ['k2']],
  ['ip', ':within:=::/0', ['k2', 'k3']],
  ['net', '=fd00::/64', ['k3']],
  ['net', ':contains:=10.1.200.1', ['k1']],
  ['net', ':contains:=::ffff:172.16.250.20', ['k2']],
  ['net', ':contains:=172.16.250.20', []],
])('(%s%s)', (field, condition, found) => {
  test.each([field, `${field}a`])('on %s', async (name) => {
    expect(await keys(`(${name}${condition})`)).toEqual(found);
    expect(await keys(`(&(s=*)(!(${name}${condition})))`)).toEqual(all.filter((k) => !found.includes(k)));
  });
});

test.each<[filter: string, found: string[]]>([
  ['(s=t*o)', ['k2']],
  ['(s:caseIgnoreSubstringsMatch:=T*)', ['k2', 'k3']],
  [`(u=${uuid(2)})`, ['k2']],
  ['(nr:contains:=5)', ['k3']],
  ['(nr:contains:=1)', ['k1', 'k3']],
  ['(nr:overlaps:=[4,6])', all],
  ['(nr:overlaps:=[5,5])', ['k3']],
  [`(dr:contains:=${day(3)})`, ['k3']],
  [`(dr:overlaps:=\\(${day(2)},${day(4)}])`, all],
  ['(&(n>=0)(|(b=true)(ip:within:=::/0))(!(s=Three)))', ['k2']],
])('%s', async (filter, found) => {
  expect(await keys(filter)).toEqual(found);
});

test.each([
  ...[
    '(ip:within:=10.0.0.0)',
    '(ip:within:=10.0.0/8)',
    '(ip:within:=10.0.0.0/33)',
    '(ip:contains:=10.0.0.1)',
  ],
  ...['(net:within:=10.0.0.0/8)', '(net:contains:=10.0.0.256)', '(mac=1:2:3:4:5)', '(mac>=zz:1:2:3:4:5)'],
  ...['(nr:overlaps:=5)', '(nr:contains:=[1,2])', '(nr:overlaps:=[2,1)x)', '(dr:contains:=5)', '(u=5)'],
  ...['(b=yes)', '(d=yesterday)', '(s~=one)', '(s:nosuchrule:=1)', '(n:within:=5)', '(s=one', ''],
])('%s is no filter', async (filter) => {
  const error: unknown = await client.findObjects('types', filter).catch((e: unknown) => e);
  expect(error).toBeInstanceOf(Error);
  expect((error as Error).message).toMatch(/is an invalid filter|to be a nonempty string/);
});

test.each<[field: string, value: unknown]>([
  ...([
    ['ip', '10.0.0'],
    ['net', '10.0.0.0'],
    ['mac', 'nope'],
    ['b', 'yes'],
    ['u', 'x'],
  ] as [string, unknown][]),
  ...([
    ['d', '2024-01-01'],
    ['nr', '[1 2]'],
    ['dr', '[,'],
    ['ipa', ['10.0.0.1', 'x']],
  ] as [string, unknown][]),
])('%s does not take %s', async (field, value) => {
  const put = client.putObject('types', 'bad', { [field]: value });
  await expect(put).rejects.toThrow(`index(${field}) is of type ${index[field]?.type}`);
});
