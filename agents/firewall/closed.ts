import { z } from 'zod';

/**
 * What stands in for a rule that cannot be applied. A rule that says `allow` is left out: the default, or another
 * rule, decides. Anything else could be a `block`, so everything that it may have been meant to block is blocked,
 * before any other rule: its protocol if that can be told (else all), for its VMs and in its directions if these can be told (else
 * every firewalled VM of its owner, both ways).
 */
export interface Closed {
  /** null: every protocol. */
  readonly protocol: Protocol | null;
  /** null: every firewalled VM of `owner`. */
  readonly inVms: readonly string[] | null;
  readonly outVms: readonly string[] | null;
  /** null: every owner. */
  readonly owner: string | null;
}

export const protocols = ['tcp', 'udp', 'icmp', 'icmp6', 'ah', 'esp'] as const;
export type Protocol = (typeof protocols)[number];

const side = z.object({ vms: z.array(z.string()) });

/** Reads from a rule that is not valid what can be read. Answers null where leaving it out is already the closed state. */
export function closeRule(raw: unknown): Closed | null {
  const object = z.looseObject({}).safeParse(raw).data ?? {};
  const body = z.looseObject({}).safeParse(object.body).data ?? {};
  if (body.action === 'allow') return null;
  const incoming = side.safeParse(body.in).data;
  const outgoing = side.safeParse(body.out).data;
  // A direction that is not there is not meant; one that is there and cannot be read is.
  const vms = (given: unknown, read: { vms: string[] } | undefined) =>
    read?.vms ?? (given === undefined && (body.in ?? body.out) !== undefined ? [] : null);
  return {
    protocol: z.enum(protocols).safeParse(body.protocol).data ?? null,
    inVms: vms(body.in, incoming),
    outVms: vms(body.out, outgoing),
    owner: z.string().safeParse(object.owner_uuid).data ?? null,
  };
}
