// What all JavaScript judges do alike: one line of output, and an exit code that says what it means.

// The values of environment variables; a judge that misses one is skipped, not failed.
export function need(...names) {
  const missing = names.filter((name) => !process.env[name]);
  if (missing.length > 0) {
    console.log(`not set: ${missing.join(", ")}`);
    process.exit(77);
  }
  return names.map((name) => process.env[name]);
}

export function expect(condition, what) {
  if (!condition) {
    console.log(what);
    process.exit(1);
  }
}

export function done(what) {
  console.log(what);
  process.exit(0);
}

// The HTTP status with which a call of an Azure client is refused; 200 if it is not.
export async function status(call) {
  try {
    await call;
    return 200;
  } catch (error) {
    if (error.statusCode === undefined) throw error;
    return error.statusCode;
  }
}

process.on("uncaughtException", (error) => {
  console.log(`${error.name}: ${error.message}`.split("\n")[0]);
  process.exit(1);
});
