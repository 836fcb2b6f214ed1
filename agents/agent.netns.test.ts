import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Agent } from './agent.ts';
import { run } from './driver/exec.ts';
import { FakeDatacenter } from './testing/datacenter.ts';
import { TestNodes, type TestNode, whyNoKernel } from './testing/nodes.ts';
import { firewallVmObject, overlayObject, rule, ruleObject, testVm, vmObject } from './testing/objects.ts';

const why = whyNoKernel();

describe.skipIf(why !== null)(`two nodes with real packets${why === null ? '' : ` (skipped: ${why})`}`, () => {
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
    expect(await nodes.pings(web, '192.168.1.6')).toBe(false);
    expect(await nodes.pings(db, '192.168.1.5')).toBe(false);

    const body = rule({ in: { vms: [db.uuid], peers: ['192.168.1.5'] }, out: { vms: [web.uuid], peers: ['192.168.1.6'] } });
    const allow = ruleObject(body, [left.uuid, right.uuid]);
    expect(await shown(datacenter.put(allow))).toEqual([]);
    expect(await nodes.pings(web, '192.168.1.6')).toBe(true);
    expect(await nodes.pings(db, '192.168.1.5')).toBe(false);
    expect(await differences()).toEqual([]);

    await shown(datacenter.delete(allow.key));
    expect(await nodes.pings(web, '192.168.1.6')).toBe(false);
    expect(await differences()).toEqual([]);
    await run('true', []);
  });
});
