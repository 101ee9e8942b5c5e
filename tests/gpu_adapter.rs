//! The adapter that the environment asks for is there: no GPU test may pass on another one.

#[test]
fn the_adapter_asked_for_is_the_one_found() {
    let instance = wgpu::Instance::default();
    let adapters = pollster::block_on(instance.enumerate_adapters(wgpu::Backends::all()));
    let names: Vec<_> = adapters.iter().map(|adapter| adapter.get_info().name).collect();
    assert!(!names.is_empty(), "no adapter: install a Vulkan driver, such as Mesa's lavapipe");
    if let Ok(wanted) = std::env::var("BISE_ADAPTER") {
        assert!(names.iter().any(|name| name.contains(&wanted)), "no adapter {wanted} among {names:?}");
        assert_eq!(names.len(), 1, "one driver is visible, so one adapter: {names:?}");
    }
    println!("{names:?}");
}
