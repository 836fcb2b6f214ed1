/** What a TAP stream says of a test file. */
export interface TapResult {
  readonly passed: number;
  readonly skipped: number;
  /** The failed assertions, each as `test: assertion`. */
  readonly failures: readonly string[];
}

const assertion = /^(not )?ok \d+ ?(.*)$/;

/** Counts the assertions of a TAP stream (version 13); other lines, such as logs, are let pass. */
export function parseTap(output: string): TapResult {
  let passed = 0;
  let skipped = 0;
  let test = '';
  const failures: string[] = [];
  for (const line of output.split('\n')) {
    const [, failed, name = ''] = assertion.exec(line) ?? [];
    if (assertion.test(line)) {
      if (/# SKIP\b/i.test(name)) skipped++;
      else if (failed === undefined) passed++;
      else failures.push(`${test}: ${name}`);
    } else if (line.startsWith('# ')) {
      test = line.slice(2);
    }
  }
  return { passed, skipped, failures };
}
