/**
 * PostgreSQL says with a warning, and then answers as after any commit, that it has stopped waiting for the standby. The
 * warning has no SQLSTATE of its own and its text is in the server's language: what tells it is where it comes from.
 */
export function isEndOfWait({ routine }: { readonly routine?: string | undefined }): boolean {
  return routine === 'SyncRepWaitForLSN';
}
