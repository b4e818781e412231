// The texts that JavaScript and Python have numbered, so that only their numbers cross: one table for all realms.
//
// Evaluated once for each isolate, in a context that no script has.
({
  kept: new Map(), // text => the number that Python knows it by
  keptCount: 0,
  round: 0, // how often `kept` was full and began again
  seen: new Map(), // texts that came once, so that those made by concatenation do not fill `kept`
  seenCount: 0,
  texts: new Array(4096), // texts that Python has numbered
})
//# sourceURL=js_tables.js
