// Functions of the language that V8 runs in code of its own, where nothing stops them: here they get a bound.
//
// Evaluated once for each script, before it; called with whether WebAssembly is allowed. What V8 does without looking up
// is harmless while it is short; an array, however, may claim four thousand million elements, whatever it holds, and what
// only looks like one even more. Arrays of up to ELEMENTS go to V8 as they are; anything else goes by way of a Proxy,
// where V8 does look up, or is refused where V8 would make room for all elements first.
(function guards(wasm) {
  'use strict';
  const { Array, ArrayBuffer, BigInt, Date, Function, Intl, JSON, Map, Math, Number, Object, Proxy, RangeError, Reflect, String, Symbol, TypeError,
    WeakSet } = globalThis;
  const { apply, construct } = Reflect;
  const { defineProperty, getOwnPropertyDescriptor } = Object;
  const { isArray } = Array;
  const TypedArray = Object.getPrototypeOf(Uint8Array);
  const { floor } = Math;
  const { isConcatSpreadable, iterator, species } = Symbol;
  const ELEMENTS = 1 << 21, CHARACTERS = 1 << 22, KEYS = 1 << 20, ARGUMENTS = 1 << 15, BUFFER = 1 << 22;
  const LOCALES = 64, FORMATTED = 1 << 14;
  const COMPARISONS = 2 ** 28; // of characters

  const proxies = new WeakSet(), addProxy = WeakSet.prototype.add, hasProxy = WeakSet.prototype.has;
  const isProxy = (value) => apply(hasProxy, proxies, [value]);
  const isObject = (value) => typeof value === 'object' ? value !== null : typeof value === 'function';
  const tooLong = (what, length, most) => { throw new RangeError(`${what} of length ${length}, more than ${most}`); };

  // Put `make(plain)` in the place of the method `name`, which is `plain`: it looks like that one.
  function guard(owner, name, make) {
    const row = getOwnPropertyDescriptor(owner, name);
    if (row === undefined) return;
    const plain = row.value, made = make(plain);
    for (const key of ['name', 'length']) defineProperty(made, key, getOwnPropertyDescriptor(plain, key));
    row.value = made;
    defineProperty(owner, name, row);
  }

  // ---- arrays, and what looks like them
  const looseElements = (self) => {
    if (isArray(self)) return self.length <= ELEMENTS ? self : new Proxy(self, {});
    if (isObject(self)) return new Proxy(self, {});
    if (typeof self === 'string' && self.length > ELEMENTS) tooLong('a text', self.length, ELEMENTS);
    return self;
  };

  const prototype = Array.prototype;
  for (const name of ['copyWithin', 'every', 'fill', 'filter', 'find', 'findIndex', 'findLast', 'findLastIndex', 'forEach',
    'includes', 'indexOf', 'join', 'lastIndexOf', 'map', 'reduce', 'reduceRight', 'reverse', 'shift', 'slice', 'some',
    'splice', 'toString', 'unshift']) {
    guard(prototype, name, (plain) => ({
      [name](...given) {
        const self = looseElements(this), result = apply(plain, self, given);
        return result === self ? this : result;
      },
    })[name]);
  }

  for (const name of ['sort', 'toReversed', 'toSorted', 'toSpliced', 'with']) { // V8 makes room first
    guard(prototype, name, (plain) => ({
      [name](...given) {
        if (!isArray(this) || isProxy(this)) throw new TypeError(`Array.prototype.${name} of what is no array`);
        if (this.length > ELEMENTS) tooLong('an array', this.length, ELEMENTS);
        return apply(plain, this, given);
      },
    })[name]);
  }

  guard(prototype, 'concat', (plain) => ({
    concat(...given) {
      const spread = (value) => {
        if (isArray(value)) return value.length > ELEMENTS && value[isConcatSpreadable] !== false ? new Proxy(value, {}) : value;
        return isObject(value) && value[isConcatSpreadable] ? new Proxy(value, {}) : value;
      };
      for (let i = 0; i < given.length; i++) given[i] = spread(given[i]);
      return apply(plain, spread(this), given);
    },
  }).concat);

  const define = (target, value) => { // whatever a script has made of the prototypes
    defineProperty(target, target.length, { __proto__: null, value, writable: true, enumerable: true, configurable: true });
  };

  function flatten(source, depth, target) {
    const length = source.length;
    for (let i = 0; i < length; i++) {
      if (!(i in source)) continue;
      const value = source[i];
      if (depth > 0 && isArray(value)) flatten(value, depth - 1, target);
      else define(target, value);
    }
    return target;
  }

  guard(prototype, 'flat', () => ({
    flat(depth = 1) { return flatten(Object(this), +depth, []); },
  }).flat);

  guard(prototype, 'flatMap', () => ({
    flatMap(callback, self) {
      if (typeof callback !== 'function') throw new TypeError('flatMap mapper function is not callable');
      const source = Object(this), length = source.length, target = [];
      for (let i = 0; i < length; i++) {
        if (!(i in source)) continue;
        const value = apply(callback, self, [source[i], i, source]);
        if (isArray(value)) flatten(value, 0, target);
        else define(target, value);
      }
      return target;
    },
  }).flatMap);

  guard(Array, 'from', (plain) => ({
    from(items, ...rest) {
      if (!isObject(items) || (isArray(items) && items.length <= ELEMENTS)) return apply(plain, this, [items, ...rest]);
      const iterate = items[iterator];
      const source = iterate === undefined || iterate === null
        ? new Proxy(items, {}) : { [iterator]: () => apply(iterate, items, []) };
      return apply(plain, this, [source, ...rest]);
    },
  }).from);

  // ---- lists of arguments
  function list(given) {
    if (!isObject(given)) return given;
    const length = given.length;
    if (length > ARGUMENTS) tooLong('a list of arguments', length, ARGUMENTS);
    if (isArray(given) && !isProxy(given)) return given;
    const out = [];
    for (let i = 0; i < length; i++) define(out, given[i]);
    return out;
  }

  guard(Function.prototype, 'apply', (plain) => ({
    apply(self, given) { return apply(plain, this, [self, list(given)]); },
  }).apply);
  guard(Reflect, 'apply', (plain) => ({
    apply(target, self, given) { return plain(target, self, list(given)); },
  }).apply);
  guard(Reflect, 'construct', (plain) => ({
    construct(target, given, ...rest) { return plain(target, list(given), ...rest); },
  }).construct);

  // ---- languages: V8 goes through a list of them, and formats each element of an array, without looking up
  const tagOf = getOwnPropertyDescriptor(Intl.Locale.prototype, 'baseName').get;
  const isLocale = (value) => { // `instanceof` asks the script
    try {
      apply(tagOf, value, []);
      return true;
    } catch (_) {
      return false;
    }
  };
  const locales = (given) => {
    if (!isObject(given) || isLocale(given)) return given;
    const length = given.length;
    if (length > LOCALES) tooLong('a list of locales', length, LOCALES);
    const out = [];
    for (let i = 0; i < length; i++) define(out, given[i]);
    return out;
  };
  const typedLength = getOwnPropertyDescriptor(TypedArray.prototype, 'length').get;

  function localized(owner, name, at, check = (self) => self) {
    guard(owner, name, (plain) => ({
      [name](...given) {
        if (given.length > at) given[at] = locales(given[at]);
        return apply(plain, check(this), given);
      },
    })[name]);
  }

  for (const name of ['toLocaleDateString', 'toLocaleString', 'toLocaleTimeString']) localized(Date.prototype, name, 0);
  for (const owner of [BigInt.prototype, Number.prototype]) localized(owner, 'toLocaleString', 0);
  localized(prototype, 'toLocaleString', 0, (self) => {
    if (isObject(self) && (!isArray(self) || isProxy(self))) return new Proxy(self, {});
    if (isObject(self) && self.length > FORMATTED) tooLong('an array', self.length, FORMATTED);
    return self;
  });
  localized(TypedArray.prototype, 'toLocaleString', 0, (self) => {
    const length = apply(typedLength, self, []);
    if (length > FORMATTED) tooLong('an array', length, FORMATTED);
    return self;
  });
  for (const name of ['toLocaleLowerCase', 'toLocaleUpperCase']) localized(String.prototype, name, 0);
  localized(String.prototype, 'localeCompare', 1);
  localized(Intl, 'getCanonicalLocales', 0);
  for (const name of ['Collator', 'DateTimeFormat', 'DisplayNames', 'DurationFormat', 'ListFormat', 'NumberFormat', 'PluralRules',
    'RelativeTimeFormat', 'Segmenter']) {
    if (Intl[name] === undefined) continue;
    localized(Intl[name], 'supportedLocalesOf', 0);
    guard(Intl, name, (plain) => {
      const made = function (...given) {
        if (given.length > 0) given[0] = locales(given[0]);
        return new.target === undefined ? apply(plain, this, given) : construct(plain, given, new.target === made ? plain : new.target);
      };
      defineProperty(made, 'prototype', { value: plain.prototype, writable: false });
      defineProperty(made, 'supportedLocalesOf', getOwnPropertyDescriptor(plain, 'supportedLocalesOf'));
      defineProperty(plain.prototype, 'constructor', { value: made, writable: true, configurable: true });
      return made;
    });
  }

  // ---- texts
  for (const name of ['localeCompare', 'match', 'matchAll', 'normalize', 'replace', 'replaceAll', 'split', 'toLocaleLowerCase',
    'toLocaleUpperCase', 'toLowerCase', 'toUpperCase', 'toWellFormed', 'indexOf', 'includes']) {
    guard(String.prototype, name, (plain) => ({
      [name](...given) {
        const self = isObject(this) ? `${this}` : this; // what gives a text is measured as well
        if (typeof self === 'string' && self.length > CHARACTERS) tooLong('a text', self.length, CHARACTERS);
        return apply(plain, self, given);
      },
    })[name]);
  }

  const made = (self, length) => {
    if (length > CHARACTERS) tooLong('a text', length, CHARACTERS);
    return self;
  };
  guard(String.prototype, 'repeat', (plain) => ({
    repeat(count) {
      const text = `${this}`, times = +count;
      return apply(plain, made(text, text.length * times), [times]);
    },
  }).repeat);
  for (const name of ['padEnd', 'padStart']) {
    guard(String.prototype, name, (plain) => ({
      [name](length, ...given) {
        const most = +length;
        return apply(plain, made(this, most), [most, ...given]);
      },
    })[name]);
  }
  guard(String.prototype, 'lastIndexOf', (plain) => ({ // V8 compares at every place
    lastIndexOf(wanted, ...given) {
      const text = `${this}`, part = `${wanted}`;
      if (text.length * part.length > COMPARISONS) tooLong('a text', text.length, floor(COMPARISONS / part.length));
      return apply(plain, text, [part, ...given]);
    },
  }).lastIndexOf);

  guard(String, 'raw', () => ({
    raw(strings, ...given) {
      const parts = Object(Object(strings).raw), length = parts.length;
      let text = '';
      for (let i = 0; i < length; i++) text += `${parts[i]}${i + 1 < length && i < given.length ? `${given[i]}` : ''}`;
      return text;
    },
  }).raw);

  for (const name of ['decodeURI', 'decodeURIComponent', 'encodeURI', 'encodeURIComponent', 'escape', 'parseFloat', 'parseInt',
    'unescape']) {
    guard(globalThis, name, (plain) => ({
      [name](...given) {
        if (typeof given[0] === 'string' && given[0].length > CHARACTERS) tooLong('a text', given[0].length, CHARACTERS);
        return apply(plain, this, given);
      },
    })[name]);
  }

  // ---- objects with a key for each character or octet
  const withKeys = (value) => {
    const length = typeof value === 'string' || value instanceof String ? value.length : 0;
    if (length > KEYS) tooLong('a text', length, KEYS);
  };
  for (const [owner, names] of [[Object, ['assign', 'entries', 'freeze', 'getOwnPropertyDescriptors', 'getOwnPropertyNames',
    'keys', 'seal', 'values']], [Reflect, ['ownKeys']]]) {
    for (const name of names) {
      guard(owner, name, (plain) => ({
        [name](...given) {
          for (let i = 0; i < given.length; i++) withKeys(given[i]);
          return apply(plain, this, given);
        },
      })[name]);
    }
  }

  // ---- symbols with a name: V8 would have all scripts share them, and keep them when the last one is gone
  const symbols = new Map(), names = new Map(), { get, set } = Map.prototype;
  guard(Symbol, 'for', () => ({
    for(given) {
      const name = `${given}`, known = apply(get, symbols, [name]);
      if (known !== undefined) return known;
      const symbol = Symbol(name);
      apply(set, symbols, [name, symbol]);
      apply(set, names, [symbol, name]);
      return symbol;
    },
  }).for);
  guard(Symbol, 'keyFor', (plain) => ({
    keyFor(symbol) { return typeof symbol === 'symbol' ? apply(get, names, [symbol]) : plain(symbol); },
  }).keyFor);

  // ---- JSON
  guard(JSON, 'parse', (plain) => ({
    parse(given, ...rest) {
      const text = `${given}`;
      if (text.length > CHARACTERS) tooLong('a text', text.length, CHARACTERS);
      return apply(plain, this, [text, ...rest]);
    },
  }).parse);

  guard(JSON, 'stringify', (plain) => ({
    stringify(value, replacer, ...rest) {
      if (isArray(replacer) && replacer.length > ELEMENTS) tooLong('an array', replacer.length, ELEMENTS);
      return apply(plain, this, [value, replacer, ...rest]);
    },
  }).stringify);

  // ---- what takes V8 a while, but not long: when a function begins V8 looks up, in a loop only after thousands of rounds
  for (const [owner, names] of [[ArrayBuffer.prototype, ['resize', 'slice', 'transfer', 'transferToFixedLength']],
    [TypedArray.prototype, ['copyWithin', 'fill', 'includes', 'indexOf', 'join', 'lastIndexOf', 'reverse', 'set', 'slice', 'sort',
      'toReversed', 'toSorted', 'with']]]) {
    for (const name of names) {
      guard(owner, name, (plain) => ({ [name](...given) { return apply(plain, this, given); } })[name]);
    }
  }

  // ---- memory that is not in the heap
  function buffer(length, options) {
    if (new.target === undefined) throw new TypeError("Constructor ArrayBuffer requires 'new'");
    const most = isObject(options) ? options.maxByteLength : undefined;
    if (most === undefined) return construct(ArrayBuffer, [length], new.target);
    if (!(most <= BUFFER)) tooLong('a buffer', most, BUFFER);
    return construct(ArrayBuffer, [length, { maxByteLength: +most }], new.target);
  }
  defineProperty(buffer, 'name', { value: 'ArrayBuffer' });
  defineProperty(buffer, 'length', { value: 1 });
  defineProperty(buffer, 'prototype', { value: ArrayBuffer.prototype, writable: false });
  defineProperty(buffer, 'isView', getOwnPropertyDescriptor(ArrayBuffer, 'isView'));
  defineProperty(buffer, species, getOwnPropertyDescriptor(ArrayBuffer, species));

  function proxy(target, handler) {
    if (new.target === undefined) throw new TypeError("Constructor Proxy requires 'new'");
    const made = new Proxy(target, handler);
    apply(addProxy, proxies, [made]);
    return made;
  }
  const revocable = Proxy.revocable;
  defineProperty(proxy, 'name', { value: 'Proxy' });
  defineProperty(proxy, 'prototype', { value: undefined, writable: false });
  defineProperty(proxy, 'revocable', {
    value: function (target, handler) {
      const made = revocable(target, handler);
      apply(addProxy, proxies, [made.proxy]);
      return made;
    },
    writable: true,
    configurable: true,
  });

  for (const [name, value] of [['ArrayBuffer', buffer], ['Proxy', proxy]]) {
    defineProperty(globalThis, name, { value, writable: true, enumerable: false, configurable: true });
  }
  defineProperty(ArrayBuffer.prototype, 'constructor', { value: buffer, writable: true, enumerable: false, configurable: true });
  delete globalThis.SharedArrayBuffer; // what is shared is not freed with the script
  // What runs when no route block does has no time limit.
  delete globalThis.FinalizationRegistry;
  if (wasm) {
    for (const name of ['compile', 'compileStreaming', 'instantiate', 'instantiateStreaming']) delete WebAssembly[name];
  } else {
    delete globalThis.WebAssembly; // its code and its memory are outside of the heap
  }
})
//# sourceURL=js_guards.js
