const { Worker, isMainThread, workerData } = require("worker_threads");

function sort() {
  const numbers = new Float64Array(1000000);
  let x = 42, sum = 0;
  for (let i = 0; i < numbers.length; i++) numbers[i] = x = (x * 16807) % 2147483647;
  numbers.sort();
  for (const number of numbers) sum = (sum * 31 + number) % 1000000007;
  console.log(sum);
}

function threads(count) {
  const shared = new Int32Array(new SharedArrayBuffer(8));
  let ended = 0;
  for (let i = 1; i <= count; i++) {
    const worker = new Worker(__filename, { workerData: { shared, count, number: i } });
    worker.on("exit", () => { if (++ended === count) console.log(shared[1]); });
  }
}

function square({ shared, count, number }) {
  if (Atomics.add(shared, 0, 1) + 1 === count) Atomics.notify(shared, 0);
  for (let here; (here = Atomics.load(shared, 0)) < count;) Atomics.wait(shared, 0, here);
  Atomics.add(shared, 1, number * number);
}

function garbage() {
  const kept = [];
  for (let i = 0; i < 600; i++) {
    let chain = null;
    for (let j = 0; j < 30000; j++) chain = { chain, me: null, number: j };
    kept[i % 4] = chain;
  }
  console.log("collected");
}

const [what, count] = process.argv.slice(2);
if (!isMainThread) square(workerData);
else if (what === "sort") sort();
else if (what === "threads") threads(Number(count));
else if (what === "garbage") garbage();
else if (what === "bomb") for (const all = [];;) all.push(new Array(100000).fill(1.5));
else if (what === "exit") process.exit(Number(count));
else if (what === "throw") throw new Error("boom");
else { console.log("looping"); for (;;) {} }
