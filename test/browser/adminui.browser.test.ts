import { randomUUID } from 'node:crypto';
import { mkdtemp } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Browser, Locator, Page } from 'playwright-core';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type Datacenter, startDatacenter } from '../../cli/datacenter.ts';
import { launchChromium, withoutChromium } from './chromium.ts';

const why = await withoutChromium();
const owner = randomUUID();

const title = `adminui in a browser${why === null ? '' : ` (skipped: ${why})`}`;

describe.skipIf(why !== null)(title, { timeout: 300_000 }, () => {
  let datacenter: Datacenter;
  let browser: Browser;
  let page: Page;
  /** What the page complained of, and whom it called: it may do so to no one but adminui. */
  const complaints: string[] = [];
  const hosts = new Set<string>();

  beforeAll(async () => {
    const home = await mkdtemp(join(tmpdir(), 'conger-browser-'));
    datacenter = await startDatacenter({ home, portBase: 'free', simulated: true, nodes: 2 });
    browser = await launchChromium();
    page = await browser.newPage();
    page.setDefaultTimeout(120_000);
    page.on('pageerror', (error) => complaints.push(String(error)));
    page.on('console', (message) => {
      if (message.type() === 'error') complaints.push(message.text());
    });
    page.on('request', (request) => hosts.add(new URL(request.url()).origin));
    await page.goto(adminui());
    await page.evaluate('window.notReloaded = true');
  }, 300_000);

  afterAll(async () => {
    await browser?.close();
    await datacenter?.destroy();
  });

  const adminui = () => datacenter.endpoints.adminui[0]!;

  const row = (table: string, text: string): Locator =>
    page.getByRole('table', { name: table, exact: true }).getByRole('row').filter({ hasText: text });

  const seen = async (table: string, text: string, also = ''): Promise<void> => {
    await row(table, text).filter({ hasText: also }).first().waitFor();
  };

  /** Kills a process again and again until the page has shown that it is gone: it may be back before somebody looks. */
  async function killUntil(name: string, shown: Promise<void>): Promise<void> {
    const killing = setInterval(() => {
      if (datacenter.processes.some((process) => process.name === name)) datacenter.kill(name, 'SIGKILL');
    }, 20);
    try {
      await shown;
    } finally {
      clearInterval(killing);
    }
  }

  const live = () => page.getByRole('status').filter({ hasText: /^live$/ });

  async function call(
    method: string,
    url: string | undefined,
    body?: unknown,
  ): Promise<Record<string, unknown>> {
    const answer = await fetch(url ?? '', {
      method,
      headers: { 'content-type': 'application/json', 'x-request-id': randomUUID() },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    });
    const text = await answer.text();
    if (!answer.ok) throw new Error(`${method} ${url}: ${answer.status} ${text}`);
    return text === '' ? {} : (JSON.parse(text) as Record<string, unknown>);
  }

  it('shows every instance up and every node running', async () => {
    await live().waitFor();
    const { processes } = datacenter.endpoints;
    expect(processes.length).toBeGreaterThan(13);
    for (const { name, pid } of processes) await seen('Instances', `${name}up`, String(pid));
    await page.getByText(`${processes.length} of ${processes.length} up`).waitFor();
    for (const hostname of ['node0', 'node1']) await seen('Nodes', hostname, 'running');
    await page.getByText('2 of 2 running').waitFor();
  });

  it('shows what is created, changed and deleted through the APIs as it happens', async () => {
    const [napi, vmapi, fwapi] = (['napi', 'vmapi', 'fwapi'] as const).map((s) => datacenter.endpoints[s][0]);
    await call('POST', `${napi}/fabrics/${owner}/vlans`, { name: 'page', vlan_id: 7 });
    const network = await call('POST', `${napi}/fabrics/${owner}/vlans/7/networks`, {
      name: 'seen-network',
      subnet: '10.17.0.0/24',
      provision_start_ip: '10.17.0.10',
      provision_end_ip: '10.17.0.200',
    });
    await seen('Networks', 'seen-network', '10.17.0.0/24');
    await seen('Changes', String(network.uuid), 'napi_networks');

    const { vm_uuid } = await call('POST', `${vmapi}/vms`, {
      alias: 'seen-vm',
      owner_uuid: owner,
      brand: 'joyent-minimal',
      ram: 64,
      image_uuid: randomUUID(),
      networks: [{ uuid: network.uuid }],
      tags: { role: '<b>web</b>' },
    });
    await seen('VMs', 'seen-vm', 'running');
    await seen('VMs', 'seen-vm', '10.17.0.10');
    // Text from the outside is text.
    await seen('VMs', 'seen-vm', 'role=<b>web</b>');
    await seen('Changes', String(vm_uuid), 'vmapi_vms');

    const rule = 'FROM any TO tag "role" = "web" ALLOW tcp PORT 80';
    const made = await call('POST', `${fwapi}/rules`, { rule, owner_uuid: owner, enabled: true });
    await seen('Firewall rules', 'tcp PORT 80', 'on');
    await call('PUT', `${fwapi}/rules/${made.uuid}`, { enabled: false });
    await seen('Firewall rules', 'tcp PORT 80', 'off');
    await call('DELETE', `${fwapi}/rules/${made.uuid}`);
    await row('Firewall rules', 'tcp PORT 80').waitFor({ state: 'detached' });

    await call('DELETE', `${vmapi}/vms/${vm_uuid}`);
    await row('VMs', 'seen-vm').waitFor({ state: 'detached' });
  });

  it('shows an instance that is killed go down and come up', async () => {
    const before = datacenter.processes.find(({ name }) => name === 'vmapi1')?.pid;
    await seen('Instances', 'vmapi1up', String(before));
    const down = row('Instances', 'vmapi1').filter({ hasText: /not running|starting/ });
    await killUntil('vmapi1', down.waitFor());
    await row('Instances', 'vmapi1up')
      .filter({ hasNotText: String(before) })
      .waitFor();
  });

  it('finds its way back when adminui itself is killed, and has missed nothing', async () => {
    expect(complaints).toEqual([]);
    const lost = page.getByRole('status').filter({ hasText: 'connection lost' });
    await killUntil('adminui0', lost.waitFor());
    const [napi] = datacenter.endpoints.napi;
    await call('POST', `${napi}/fabrics/${owner}/vlans/7/networks`, {
      name: 'missed-network',
      subnet: '10.18.0.0/24',
      provision_start_ip: '10.18.0.10',
      provision_end_ip: '10.18.0.200',
    });
    await live().waitFor();
    await seen('Networks', 'missed-network');
  });

  it('was loaded once, and called nobody else', async () => {
    expect(await page.evaluate('window.notReloaded')).toBe(true);
    expect([...hosts]).toEqual([adminui()]);
  });
});
