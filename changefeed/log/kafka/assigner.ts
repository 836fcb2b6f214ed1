import { AssignerProtocol, type PartitionAssigner } from 'kafkajs';
import { z } from 'zod';
import { numbers } from './ends.ts';

const { MemberAssignment, MemberMetadata } = AssignerProtocol;

const version = 1;
/** What a member tells the group's leader when it joins: the partitions that it has, or had last. */
const claims = z.object({ owned: z.array(z.number().int().min(0)) });

/**
 * Divides the partitions among members so that nobody has two more than another, and otherwise everybody keeps what it
 * has: a partition that moves costs its consumer a rebuild.
 */
export function divide(
  partitions: number,
  members: ReadonlyMap<string, readonly number[]>,
): Map<string, number[]> {
  const least = Math.floor(partitions / members.size);
  let larger = partitions % members.size;
  const free = new Set(numbers(partitions));
  const shares = new Map<string, number[]>();
  // Those who have most choose first, so that the larger shares go where nothing has to move for them.
  const byHoldings = [...members].sort(([a, x], [b, y]) => y.length - x.length || (a < b ? -1 : 1));
  for (const [member, owned] of byHoldings) {
    const kept = [...new Set(owned)].filter((partition) => free.has(partition));
    const most = kept.length > least && larger > 0 ? least + 1 : least;
    if (most > least) larger--;
    const share = kept.slice(0, most);
    for (const partition of share) free.delete(partition);
    shares.set(member, share);
  }
  for (const partition of free) {
    let smallest: number[] | undefined;
    for (const share of shares.values())
      if (smallest === undefined || share.length < smallest.length) smallest = share;
    smallest?.push(partition);
  }
  return shares;
}

/**
 * The assigner of a group on one topic.
 * @param owned the partitions that this member has, or had last; asked each time that it joins
 */
export function stickyAssigner(topic: string, partitions: number, owned: () => number[]): PartitionAssigner {
  return () => ({
    name: 'conger-sticky',
    version,
    protocol: ({ topics }) => ({
      name: 'conger-sticky',
      metadata: MemberMetadata.encode({
        version,
        topics,
        userData: Buffer.from(JSON.stringify({ owned: owned() })),
      }),
    }),
    assign: async ({ members }) => {
      const holdings = new Map(
        members.map(({ memberId, memberMetadata }) => [memberId, claimsOf(memberMetadata)]),
      );
      return [...divide(partitions, holdings)].map(([memberId, share]) => ({
        memberId,
        memberAssignment: MemberAssignment.encode({
          version,
          assignment: { [topic]: share },
          userData: Buffer.alloc(0),
        }),
      }));
    },
  });
}

function claimsOf(metadata: Buffer): readonly number[] {
  const userData = MemberMetadata.decode(metadata)?.userData;
  try {
    return claims.parse(JSON.parse(userData?.toString('utf8') ?? '')).owned;
  } catch {
    return [];
  }
}
