/**
 * Positions that writes answer and reads name: places in PostgreSQL's WAL, in its own notation (`X/Y`). A read at a
 * position sees every write that answered this one, or one before it.
 */

export const positionPattern = /^[0-9A-Fa-f]{1,8}\/[0-9A-Fa-f]{1,8}$/;

/** The position of a write that cannot be told: only the primary is sure to have it. */
export const onPrimaryAlone = 'FFFFFFFF/FFFFFFFF';
