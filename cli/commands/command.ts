/** One subcommand of `conger`. */
export interface Command {
  readonly help: string;
  /** @returns the exit status. @throws UsageError, or Error with a message for the user */
  run(args: string[]): Promise<number>;
}

/** The command was called wrongly; its help is pointed to. */
export class UsageError extends Error {}
