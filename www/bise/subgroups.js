// Subgroups for the engine's device. The library below asks a browser for the features that it knows, and does not
// know this one: what it asks for is completed on its way.

/**
 * From here on devices get subgroups where their adapter has them. Returns how many threads every subgroup of this
 * adapter has, 0 where there are none.
 *
 * @param {any} adapter GPUAdapter
 * @returns {number}
 */
export function withSubgroups(adapter) {
  if (!adapter?.features.has("subgroups")) return 0;
  const prototype = Object.getPrototypeOf(adapter);
  const { requestDevice } = prototype;
  if (requestDevice.name !== "requestWithSubgroups") {
    prototype.requestDevice = function requestWithSubgroups(/** @type {any} */ descriptor = {}) {
      const requiredFeatures = [...(descriptor.requiredFeatures ?? [])];
      if (this.features.has("subgroups")) requiredFeatures.push("subgroups");
      return requestDevice.call(this, { ...descriptor, requiredFeatures });
    };
  }
  // The least that there is, where a browser does not say.
  return Number(adapter.info?.subgroupMinSize ?? 4);
}
