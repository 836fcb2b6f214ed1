import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { type Ruleset, renderDelta, renderWhole } from '../firewall/ruleset.ts';
import { run } from './exec.ts';
import { machineNamespace, type NodeNames, nodeNames } from './names.ts';
import { Claims } from './netns-claims.ts';
import { toBatches } from './netns-commands.ts';
import { readKernel } from './netns-read.ts';
import { ensureNamespaces, runFolder, setupNode } from './netns-setup.ts';
import * as nft from './nft.ts';
import { NftSession } from './nft-session.ts';
import type { Change, Driver, Kernel } from './types.ts';

export interface NetnsOptions {
  readonly prefix: string;
  readonly nodeUuid: string;
  /** With prefix length. */
  readonly underlay: string;
}

/** Ends what runs in a namespace: a machine that stops takes its processes with it. */
export async function endProcesses(namespace: string): Promise<void> {
  const pids = await run('ip', ['netns', 'pids', namespace]).catch(() => '');
  for (const pid of pids.split('\n').map(Number)) {
    if (!Number.isInteger(pid) || pid <= 1 || pid === process.pid) continue;
    try {
      process.kill(pid, 'SIGKILL');
    } catch {
      // It ended by itself.
    }
  }
}

/**
 * A compute node as network namespaces: one for the node, one for each VM. The agent's process stays outside. It
 * touches only namespaces that carry the node's name or are claimed for the node's VMs.
 */
export class NetnsDriver implements Driver {
  readonly #options: NetnsOptions;
  readonly #names: NodeNames;
  readonly #claims: Claims;
  readonly #nft: NftSession;

  constructor(options: NetnsOptions) {
    this.#options = options;
    this.#names = nodeNames(options.prefix, options.nodeUuid);
    this.#claims = new Claims(options.prefix);
    const { prefix, node } = this.#names;
    this.#nft = new NftSession(node, join(runFolder, prefix, `${node}.nft`));
  }

  setup(): Promise<void> {
    return setupNode(this.#names, this.#options.nodeUuid, this.#options.underlay);
  }

  async read(): Promise<Kernel> {
    return readKernel(this.#names.node, await this.#claims.of(this.#options.nodeUuid));
  }

  async apply(changes: readonly Change[]): Promise<void> {
    const fresh: string[] = [];
    const removed: string[] = [];
    for (const change of changes) {
      if (change.table !== 'machines') continue;
      const namespace = this.#namespaceOf(change.key);
      if (change.op === 'put') {
        await this.#claims.claim(namespace, { vm: change.key, node: this.#options.nodeUuid });
        fresh.push(namespace);
      } else {
        await endProcesses(namespace);
        if (change.op === 'remove') removed.push(namespace);
      }
    }
    if (fresh.length > 0) await ensureNamespaces(fresh);
    for (const { tool, namespace, lines } of toBatches(this.#names, changes, (vm) => this.#namespaceOf(vm))) {
      await run(tool, ['-n', namespace, '-batch', '-'], `${lines.join('\n')}\n`);
    }
    for (const namespace of removed) {
      if (existsSync(`/run/netns/${namespace}`)) await run('ip', ['netns', 'del', namespace]);
      await this.#claims.release(namespace);
    }
  }

  async loadFirewall(next: Ruleset, inForce: Ruleset | null): Promise<void> {
    const text = inForce === null ? renderWhole(next) : renderDelta(inForce, next);
    if (text !== '') await this.#nft.load(text);
  }

  close(): Promise<void> {
    return this.#nft.close();
  }

  checkFirewall(ruleset: Ruleset): Promise<string | null> {
    return nft.check(ruleset);
  }

  firewallDifferences(expected: Ruleset): Promise<string[]> {
    return nft.differences(this.#names.node, expected);
  }

  #namespaceOf(vm: string): string {
    return machineNamespace(this.#options.prefix, vm);
  }
}
