import { z } from 'zod';
import type { Vm } from './vm.ts';

/**
 * What a node tells of one VM. vm-agent sends the whole VM; what is used is its state. `last_modified` is when the
 * VM got into it.
 */
export const reportSchema = z.looseObject({
  uuid: z.string().optional(),
  server_uuid: z.string().optional(),
  state: z.string().min(1).max(32),
  zone_state: z.string().max(32).optional(),
  last_modified: z.iso.datetime({ offset: true }).optional(),
  pid: z.number().int().nullable().optional(),
  boot_timestamp: z.string().nullable().optional(),
  exit_status: z.number().int().nullable().optional(),
  exit_timestamp: z.string().nullable().optional(),
  platform_buildstamp: z.string().optional(),
  zonepath: z.string().optional(),
  zpool: z.string().optional(),
  zfs_filesystem: z.string().optional(),
});
export type Report = z.output<typeof reportSchema>;

/** States of vmadm that a VM can be in on its node; any other word says nothing about it. */
const nodeStates: ReadonlySet<string> = new Set(['running', 'stopped', 'incomplete', 'failed', 'unknown']);

const copied = [
  'pid',
  'boot_timestamp',
  'exit_status',
  'exit_timestamp',
  'platform_buildstamp',
  'zonepath',
  'zpool',
  'zfs_filesystem',
] as const;

/** A report that comes after a newer one, by at most so much, was held up on its way; more, and the node's clock was set back. */
const longestOnTheWayMs = 300_000;

/**
 * The VM as the report makes it, or undefined where it changes nothing. A VM that was destroyed, or has failed, stays
 * so; only the VM's own node is heard. That a VM is gone from its node shows in `zone_state` alone: the job that
 * destroys it says when it is `destroyed`, once its NICs are free.
 */
export function applyReport(vm: Vm, report: Report, now: Date): Vm | undefined {
  if (vm.state === 'destroyed') return undefined;
  if (report.server_uuid !== undefined && report.server_uuid !== vm.server_uuid) return undefined;
  const isGone = report.state === 'destroyed';
  // Nothing comes after a VM's end, whatever the node's clock says of it.
  if (!isGone && isOvertaken(vm, report)) return undefined;
  const keepsState = !nodeStates.has(report.state) || vm.state === 'failed' || vm.state === 'stopping';
  const next: Record<string, unknown> = {
    state: keepsState ? vm.state : report.state,
    zone_state: isGone ? 'destroyed' : (report.zone_state ?? vm.zone_state),
    reported: report.last_modified ?? vm.reported,
  };
  for (const field of copied) if (report[field] !== undefined) next[field] = report[field];
  if (Object.entries(next).every(([field, value]) => vm[field] === value)) return undefined;
  const since = report.last_modified ?? now.toISOString();
  const isLater = Date.parse(since) > Date.parse(vm.last_modified);
  return { ...vm, ...next, last_modified: isLater ? since : vm.last_modified };
}

function isOvertaken(vm: Vm, report: Report): boolean {
  if (vm.reported === null || report.last_modified === undefined) return false;
  const late = Date.parse(vm.reported) - Date.parse(report.last_modified);
  return late > 0 && late < longestOnTheWayMs;
}
