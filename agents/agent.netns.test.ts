import { existsSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from 'vitest';
import type { Agent } from './agent.ts';
import { run } from './driver/exec.ts';
import { fabricBridge, portName, vxlanName } from './driver/names.ts';
import { FakeDatacenter } from './testing/datacenter.ts';
import {
  connect,
  connectsInVain,
  deviceIndex,
  echoServer,
  everything,
  isMarked,
  mark,
} from './testing/inside.ts';
import { type TestNode, TestNodes, whyNoKernel } from './testing/nodes.ts';
import {
  firewallVmObject,
  nic,
  overlayObject,
  rule,
  ruleObject,
  testVm,
  vmObject,
} from './testing/objects.ts';

const why = whyNoKernel();

describe.skipIf(why !== null)(
  `two nodes with real packets${why === null ? '' : ` (skipped: ${why})`}`,
  () => {
    let datacenter: FakeDatacenter;
    let nodes: TestNodes;
    let left: TestNode;
    let right: TestNode;
    const agents = new Map<string, Agent>();

    beforeAll(async () => {
      datacenter = await new FakeDatacenter().start();
      nodes = new TestNodes(datacenter);
      left = await nodes.add();
      right = await nodes.add();
      // Both at once: whoever comes first makes the underlay switch.
      const started = await Promise.all([nodes.start(left), nodes.start(right)]);
      agents.set(left.uuid, started[0]);
      agents.set(right.uuid, started[1]);
      await datacenter.until(() => datacenter.applied.size === 2);
    });
    afterAll(async () => {
      await nodes?.end();
      await datacenter?.stop();
    });

    const shown = async (position: string) => {
      const failed = await Promise.all([left, right].map((node) => datacenter.shown(node.uuid, position)));
      return failed.flat();
    };
    const differences = async () =>
      (await Promise.all([left, right].map((node) => agents.get(node.uuid)?.verify()))).flat();

    it('carries the story', async () => {
      const web = testVm(left.uuid, '192.168.1.5');
      const db = testVm(right.uuid, '192.168.1.6');
      // A position shows on the nodes in the object's span; an overlay of both closes each step.
      const close = () => datacenter.put(overlayObject([web, db], nodes.underlays));
      datacenter.put(vmObject(web), vmObject(db));
      expect(await shown(close())).toEqual([]);
      expect(await nodes.pings(web, '192.168.1.6')).toBe(true);
      expect(await nodes.pings(db, '192.168.1.5')).toBe(true);
      expect(await differences()).toEqual([]);

      datacenter.put(firewallVmObject(web), firewallVmObject(db));
      await shown(close());
      expect(await nodes.pingsInVain(web, '192.168.1.6')).toBe(true);
      expect(await nodes.pingsInVain(db, '192.168.1.5')).toBe(true);

      const body = rule({
        in: { vms: [db.uuid], peers: ['192.168.1.5'] },
        out: { vms: [web.uuid], peers: ['192.168.1.6'] },
      });
      const allow = ruleObject(body, [left.uuid, right.uuid]);
      expect(await shown(datacenter.put(allow))).toEqual([]);
      expect(await nodes.pings(web, '192.168.1.6')).toBe(true);
      expect(await nodes.pingsInVain(db, '192.168.1.5')).toBe(true);
      expect(await differences()).toEqual([]);

      await shown(datacenter.delete(allow.key));
      expect(await nodes.pingsInVain(web, '192.168.1.6')).toBe(true);
      expect(await differences()).toEqual([]);
    });

    it('keeps networks with equal addresses apart on one node', async () => {
      const place = (vnet: number) =>
        [testVm(left.uuid, '192.168.1.5', { vnet }), testVm(left.uuid, '192.168.1.6', { vnet })] as const;
      const [a5, a6] = place(21);
      const [b5, b6] = place(22);
      for (const vm of [a5, a6, b5, b6]) datacenter.put(vmObject(vm));
      // Only the first network's pair is behind a firewall: a ping in the second must not open the first.
      datacenter.put(firewallVmObject(a5), firewallVmObject(a6));
      const body = rule({ in: { vms: [a6.uuid], peers: ['192.168.1.5'] } });
      await datacenter.shown(left.uuid, datacenter.put(ruleObject(body, [left.uuid])));
      expect(await nodes.pings(b6, '192.168.1.5')).toBe(true);
      expect(await nodes.pingsInVain(a6, '192.168.1.5')).toBe(true);
      expect(await nodes.pings(a5, '192.168.1.6')).toBe(true);
      expect(await agents.get(left.uuid)?.verify()).toEqual([]);
    });

    it('keeps the VLANs of one vnet apart, over both nodes', async () => {
      const place = (ip: string, node: TestNode) => testVm(node.uuid, ip, { vnet: 25 });
      const [a5, a6, b5, b6] = [
        place('192.168.1.5', left),
        place('192.168.1.6', right),
        place('192.168.1.5', left),
        place('192.168.1.6', right),
      ] as const;
      for (const vm of [a5, a6]) datacenter.put(vmObject(vm));
      for (const vm of [b5, b6]) datacenter.put(vmObject(vm, { nics: [nic(vm, { vlan_id: 3 })] }));
      datacenter.put(overlayObject([a5, a6], nodes.underlays, { network_uuid: 'vlan2' }));
      await shown(
        datacenter.put(overlayObject([b5, b6], nodes.underlays, { network_uuid: 'vlan3', vlan_id: 3 })),
      );
      expect(await nodes.pings(a5, '192.168.1.6')).toBe(true);
      expect(await nodes.pings(b5, '192.168.1.6')).toBe(true);
      const stopped = datacenter.put(vmObject(b6, { state: 'stopped' }));
      await datacenter.shown(right.uuid, stopped);
      expect(await nodes.pingsInVain(b5, '192.168.1.6')).toBe(true);
      expect(await nodes.pings(a5, '192.168.1.6')).toBe(true);
      expect(await differences()).toEqual([]);
    });

    it('filters IPv6 and lets neighbours be found', async () => {
      const a = testVm(left.uuid, 'fd00::5', { vnet: 31 });
      const b = testVm(right.uuid, 'fd00::6', { vnet: 31 });
      const overlay = overlayObject([a, b], nodes.underlays, { network_uuid: 'six' });
      datacenter.put(vmObject(a), vmObject(b));
      await shown(datacenter.put(overlay));
      expect(await nodes.pings(a, 'fd00::6')).toBe(true);
      datacenter.put(firewallVmObject(a), firewallVmObject(b));
      await shown(datacenter.put(overlay));
      expect(await nodes.pingsInVain(a, 'fd00::6')).toBe(true);
      const body = rule({
        protocol: 'icmp6',
        types: [{ type: 128, code: 0 }],
        in: { vms: [b.uuid], peers: ['fd00::/64'] },
      });
      await datacenter.shown(right.uuid, datacenter.put(ruleObject(body, [right.uuid])));
      expect(await nodes.pings(a, 'fd00::6')).toBe(true);
      expect(await nodes.pingsInVain(b, 'fd00::5')).toBe(true);
      expect(await differences()).toEqual([]);
    });

    it('checks the sender’s rules on its node, and stops a connection whose rule is removed', async () => {
      const a = testVm(left.uuid, '192.168.1.5', { vnet: 41 });
      const b = testVm(right.uuid, '192.168.1.6', { vnet: 41 });
      const overlay = overlayObject([a, b], nodes.underlays, { network_uuid: 'tcp' });
      datacenter.put(vmObject(a), vmObject(b), firewallVmObject(a), firewallVmObject(b));
      await shown(datacenter.put(overlay));

      const tcp = { protocol: 'tcp' as const, types: undefined, ports: [{ start: 7000, end: 7001 }] };
      const allow = ruleObject(rule({ ...tcp, in: { vms: [b.uuid], peers: ['192.168.1.5'] } }), [right.uuid]);
      await datacenter.shown(right.uuid, datacenter.put(allow));
      const server = await echoServer(nodes.namespaceOf(b), [7000, 7001]);
      onTestFinished(() => server.end());
      const client = await connect(nodes.namespaceOf(a), '192.168.1.6', 7000);
      onTestFinished(() => client.end());
      expect(await client.echoes('one')).toBe(true);

      // A rule of the sender's, in force on the sender's node alone.
      const block = ruleObject(
        rule({
          ...tcp,
          ports: [{ start: 7001, end: 7001 }],
          action: 'block',
          out: { vms: [a.uuid], peers: 'any' },
        }),
        [left.uuid],
      );
      await datacenter.shown(left.uuid, datacenter.put(block));
      expect(await connectsInVain(nodes.namespaceOf(a), '192.168.1.6', 7001)).toBe(true);
      expect(await client.echoes('two')).toBe(true);

      await datacenter.shown(right.uuid, datacenter.delete(allow.key));
      expect(await client.echoesInVain('three')).toBe(true);
    });

    it('repairs what others break, and only that', { timeout: 240_000 }, async () => {
      const a = testVm(left.uuid, '192.168.1.5', { vnet: 51 });
      const b = testVm(left.uuid, '192.168.1.6', { vnet: 51 });
      const c = testVm(right.uuid, '192.168.1.7', { vnet: 51 });
      datacenter.put(vmObject(a), vmObject(b), vmObject(c), firewallVmObject(a));
      await shown(datacenter.put(overlayObject([a, b, c], nodes.underlays, { network_uuid: 'drift' })));
      const agent = agents.get(left.uuid);
      const node = nodes.nodeNamespace(left);
      const untouched = await deviceIndex(node, portName(b.mac));
      const damages: [string, string[]][] = [
        ['ip', ['-n', node, 'link', 'del', vxlanName(51, 2)]],
        ['ip', ['-n', node, 'link', 'set', fabricBridge(51, 2), 'down']],
        ['ip', ['-n', node, 'link', 'set', portName(a.mac), 'nomaster']],
        ['bridge', ['-n', node, 'fdb', 'del', c.mac, 'dev', vxlanName(51, 2), 'dst', right.underlay, 'self']],
        ['bridge', ['-n', node, 'fdb', 'del', c.mac, 'dev', vxlanName(51, 2), 'master']],
        ['bridge', ['-n', node, 'link', 'set', 'dev', vxlanName(51, 2), 'neigh_suppress', 'off']],
        ['ip', ['-n', node, 'neigh', 'del', '192.168.1.7', 'dev', fabricBridge(51, 2)]],
        ['ip', ['-n', nodes.namespaceOf(a), 'addr', 'flush', 'dev', 'net0']],
        ['ip', ['netns', 'del', nodes.namespaceOf(a)]],
        ['ip', ['-n', node, 'link', 'add', 'v0000000000aa', 'type', 'veth', 'peer', 'name', 'stray']],
        ['ip', ['netns', 'exec', node, 'nft', 'delete', 'table', 'inet', 'conger']],
        ['ip', ['netns', 'exec', node, 'nft', 'flush', 'chain', 'bridge', 'conger', 'forward']],
      ];
      for (const [tool, args] of damages) {
        await run(tool, args);
        expect(await agent?.verify(), `${tool} ${args.join(' ')}`).not.toEqual([]);
        await agent?.reconcile();
        expect(await agent?.verify(), `${tool} ${args.join(' ')}`).toEqual([]);
      }
      expect(await nodes.pings(b, '192.168.1.7')).toBe(true);
      expect(await nodes.pings(a, '192.168.1.7')).toBe(true);
      expect(await nodes.pingsInVain(c, '192.168.1.5')).toBe(true);
      expect(await deviceIndex(node, portName(b.mac))).toBe(untouched);
    });

    const alone = 'restarts without touching anything, and works from its own disk while no service answers';
    it(alone, { timeout: 120_000 }, async () => {
      const a = testVm(left.uuid, '192.168.1.5', { vnet: 61 });
      const b = testVm(right.uuid, '192.168.1.6', { vnet: 61 });
      datacenter.put(vmObject(a), vmObject(b), firewallVmObject(b));
      const body = rule({ in: { vms: [b.uuid], peers: ['192.168.1.5'] } });
      datacenter.put(ruleObject(body, [right.uuid]));
      await shown(datacenter.put(overlayObject([a, b], nodes.underlays, { network_uuid: 'restart' })));
      const namespaces = [nodes.nodeNamespace(right), nodes.namespaceOf(b)];
      const before = await Promise.all(namespaces.map(everything));
      const pinging = run('ip', [
        'netns',
        'exec',
        nodes.namespaceOf(a),
        'ping',
        '-n',
        '-q',
        '-i',
        '0.02',
        '-c',
        '60',
        '192.168.1.6',
      ]);
      await nodes.stop(right);
      agents.set(
        right.uuid,
        await nodes.start(right, { cnapi: ['http://127.0.0.1:1'], vmapi: ['http://127.0.0.1:1'] }),
      );
      expect(await agents.get(right.uuid)?.verify()).toEqual([]);
      expect(await pinging).toContain(' 0% packet loss');
      expect(await Promise.all(namespaces.map(everything))).toEqual(before);

      // The machine comes up again with nothing, and still no service.
      await nodes.stop(right);
      for (const namespace of namespaces) await run('ip', ['netns', 'del', namespace]);
      agents.set(
        right.uuid,
        await nodes.start(right, { cnapi: ['http://127.0.0.1:1'], vmapi: ['http://127.0.0.1:1'] }),
      );
      expect(await agents.get(right.uuid)?.verify()).toEqual([]);
      expect(await nodes.pings(a, '192.168.1.6')).toBe(true);
      expect(await nodes.pings(b, '192.168.1.5')).toBe(true);
      await nodes.stop(right);
      agents.set(right.uuid, await nodes.start(right));
      await datacenter.shown(right.uuid, datacenter.put(vmObject(b)));
    });

    it('closes where a rule is not valid, for that rule', async () => {
      const a = testVm(left.uuid, '192.168.1.5', { vnet: 71 });
      const b = testVm(left.uuid, '192.168.1.6', { vnet: 71 });
      datacenter.put(vmObject(a), vmObject(b), firewallVmObject(b));
      const incoming = { in: { vms: [b.uuid], peers: 'any' as const } };
      await datacenter.shown(left.uuid, datacenter.put(ruleObject(rule(incoming), [left.uuid])));
      expect(await nodes.pings(a, '192.168.1.6')).toBe(true);

      const broken = ruleObject(rule({ ...incoming, action: 'block', types: [{ type: 999 }] }), [left.uuid]);
      const failed = await datacenter.shown(left.uuid, datacenter.put(broken));
      expect(failed).toEqual([{ key: broken.key, reason: expect.stringContaining('999') }]);
      expect(await nodes.pingsInVain(a, '192.168.1.6')).toBe(true);
      expect(await agents.get(left.uuid)?.verify()).toEqual([]);

      expect(await datacenter.shown(left.uuid, datacenter.delete(broken.key))).toEqual([]);
      expect(await nodes.pings(a, '192.168.1.6')).toBe(true);
    });

    it('guards a VM that says so before anything of its firewall is there, also a NIC that comes later', async () => {
      const a = testVm(left.uuid, '192.168.1.5', { vnet: 101 });
      const b = testVm(right.uuid, '192.168.1.6', { vnet: 101 });
      datacenter.put(vmObject(a), vmObject(b, { firewall_enabled: true }));
      await shown(datacenter.put(overlayObject([a, b], nodes.underlays, { network_uuid: 'guarded' })));
      expect(await nodes.pingsInVain(a, '192.168.1.6')).toBe(true);
      expect(await nodes.pings(b, '192.168.1.5')).toBe(true);
      const extra = nic(
        { ...b, mac: '02:aa:00:00:00:02', ips: ['192.168.1.7'] },
        { interface: 'net1', primary: false },
      );
      datacenter.put(vmObject(b, { firewall_enabled: true, nics: [nic(b), extra] }));
      const far = [b, { ...b, mac: extra.mac, ips: ['192.168.1.7'] }];
      await shown(datacenter.put(overlayObject([a, ...far], nodes.underlays, { network_uuid: 'guarded' })));
      expect(await nodes.pingsInVain(a, '192.168.1.7')).toBe(true);
      await datacenter.shown(right.uuid, datacenter.put(vmObject(b, { nics: [nic(b), extra] })));
      expect(await nodes.pings(a, '192.168.1.6')).toBe(true);
      expect(await differences()).toEqual([]);
    });

    it('starts, stops, reboots and removes VMs, and tells VMAPI of each', async () => {
      const vm = testVm(left.uuid, '192.168.1.5', { vnet: 81 });
      const told = async (count: number) => {
        await datacenter.until(() => datacenter.reports(vm.uuid).length >= count);
        return datacenter
          .reports(vm.uuid)
          .map(({ body, requestId }) => [body.state, body.zone_state, requestId]);
      };
      const first = datacenter.put(vmObject(vm));
      await told(1);
      const namespace = nodes.namespaceOf(vm);
      await mark(namespace);
      const second = datacenter.put(vmObject(vm, { reboots: 1 }));
      await told(2);
      expect(await isMarked(namespace)).toBe(false);
      const extra = nic(
        { ...vm, mac: '02:aa:00:00:00:01', ips: ['192.168.2.5'] },
        { interface: 'net1', vnet_id: 82, primary: false },
      );
      await mark(namespace);
      await datacenter.shown(left.uuid, datacenter.put(vmObject(vm, { reboots: 1, nics: [nic(vm), extra] })));
      expect(await run('ip', ['-n', namespace, 'addr', 'show', 'net1'])).toContain('192.168.2.5/24');
      expect(await isMarked(namespace)).toBe(true);
      const third = datacenter.put(vmObject(vm, { state: 'stopped', reboots: 1 }));
      await told(3);
      expect(await run('ip', ['-n', namespace, '-o', 'link'])).not.toContain('net0');
      expect(await agents.get(left.uuid)?.verify()).toEqual([]);
      const fourth = datacenter.put(vmObject(vm, { state: 'destroyed', reboots: 1 }));
      expect(await told(4)).toEqual([
        ['running', 'running', `req-${first}`],
        ['running', 'running', `req-${second}`],
        ['stopped', 'installed', `req-${third}`],
        ['destroyed', 'destroyed', `req-${fourth}`],
      ]);
      expect(existsSync(`/run/netns/${namespace}`)).toBe(false);
      expect(await agents.get(left.uuid)?.verify()).toEqual([]);
    });

    it('makes what it can when one VM cannot be made', async () => {
      const good = testVm(left.uuid, '192.168.1.5', { vnet: 91 });
      const bad = testVm(left.uuid, '192.168.1.6', { vnet: 91 });
      const taken = testVm(left.uuid, '192.168.1.7', {
        vnet: 91,
        uuid: `${good.uuid.slice(0, 8)}-0000-4000-8000-000000000001`,
      });
      // A gateway that the VM's network does not have is the kernel's to refuse.
      await datacenter.shown(left.uuid, datacenter.put(vmObject(good)));
      datacenter.put(vmObject(bad, { nics: [nic(bad, { gateway: '10.20.30.1' })] }));
      const failed = await datacenter.shown(left.uuid, datacenter.put(vmObject(taken)));
      expect(failed.map(({ key }) => key).sort()).toEqual([`vm/${bad.uuid}`, `vm/${taken.uuid}`].sort());
      expect(failed.find(({ key }) => key.includes(taken.uuid))?.reason).toContain(good.uuid);
      expect(datacenter.reports(bad.uuid)).toEqual([]);
      datacenter.delete(`vm/${taken.uuid}`);
      expect(await datacenter.shown(left.uuid, datacenter.put(vmObject(bad)))).toEqual([]);
      expect(await nodes.pings(good, '192.168.1.6')).toBe(true);
      expect(await agents.get(left.uuid)?.verify()).toEqual([]);
    });
  },
);
