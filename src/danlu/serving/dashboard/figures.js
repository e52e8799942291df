"use strict";
// Figures out of Prometheus' text format.

// Samples by name: each with its labels and its value.
function parseMetrics(text) {
  const found = new Map();
  for (const line of text.split("\n")) {
    const match = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)$/.exec(line);
    if (!match) continue;
    const labels = {};
    for (const [, name, value] of (match[2] || "").matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g)) {
      labels[name] = value.replace(/\\(.)/g, (_, one) => (one === "n" ? "\n" : one));
    }
    if (!found.has(match[1])) found.set(match[1], []);
    found.get(match[1]).push({ labels, value: Number(match[3]) });
  }
  return found;
}

function total(metrics, name, fits = () => true) {
  return (metrics.get(name) || []).filter((one) => fits(one.labels)).reduce((sum, one) => sum + one.value, 0);
}

// Where a share of all that was observed lies under, by line within the bucket; null before anything was.
function percentile(metrics, name, share) {
  const buckets = (metrics.get(`${name}_bucket`) || [])
    .map((one) => ({ under: one.labels.le === "+Inf" ? Infinity : Number(one.labels.le), count: one.value }))
    .sort((a, b) => a.under - b.under);
  const all = buckets.length ? buckets[buckets.length - 1].count : 0;
  if (!all) return null;
  let [low, before] = [0, 0];
  for (const { under, count } of buckets) {
    if (count >= share * all) {
      if (under === Infinity) return low;
      return low + ((under - low) * (share * all - before)) / (count - before);
    }
    [low, before] = [under, count];
  }
  return low;
}
