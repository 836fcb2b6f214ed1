/**
 * Counts what a run of the tests came to: node summary.mjs <vitest's JSON report> <status of the checks> <status of the
 * tests>. A file that failed outside of its tests (it did not load, a hook threw) counts as one failed test; so do the
 * checks, and a run that failed without a test that did.
 */
import { readFileSync } from 'node:fs';

const [reportPath, checks, tests] = process.argv.slice(2);

function read(path) {
  try {
    return JSON.parse(readFileSync(path, 'utf8'));
  } catch {
    console.log('the tests left no report');
    return { numPassedTests: 0, numFailedTests: 0, numPendingTests: 0, numTodoTests: 0, testResults: [] };
  }
}

const report = read(reportPath);
const passed = report.numPassedTests;
const skipped = report.numPendingTests + report.numTodoTests;
let failed = report.numFailedTests;

for (const file of report.testResults) {
  if (file.status !== 'failed' || file.assertionResults.some((test) => test.status === 'failed')) continue;
  console.log(`failed as a whole: ${file.name}: ${file.message}`);
  failed += 1;
}
if (failed === 0 && (tests !== '0' || passed === 0)) {
  console.log(passed === 0 ? 'no test passed' : `npm test ended with ${tests}`);
  failed = 1;
}
if (checks !== '0') {
  console.log(`npm run check ended with ${checks}`);
  failed += 1;
}

// The exit status, not process.exit(): the line must be out first, also into a pipe.
process.exitCode = failed === 0 ? 0 : 1;
console.log(`${passed} passed, ${failed} failed${skipped === 0 ? '' : `, ${skipped} skipped`}`);
