/**
 * How long may take what is bound to come, in ms: on a machine that is busy with other things a start or a takeover takes
 * many times what it takes on a quiet one.
 */
export const patienceMs = 120_000;
