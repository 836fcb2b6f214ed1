import type { Target } from '../target.ts';
import { calls } from './arguments.ts';
import { filter } from './filter.ts';
import { framing } from './framing.ts';
import { session } from './session.ts';

export const targets: Readonly<Record<string, Target>> = { framing, session, filter, arguments: calls };
