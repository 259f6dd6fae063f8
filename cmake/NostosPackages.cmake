# What a Debian package has beside what `cmake --install` puts into any folder, and what cpack makes of it: one package of all that is installed.
set(NOSTOS_DEBIAN OFF CACHE BOOL "Install what Debian's packages must have: a systemd unit, a changelog and the licence in their places")
if(NOSTOS_DEBIAN)
  set(debian ${CMAKE_BINARY_DIR}/debian)
  file(READ packaging/nostos.service unit)
  string(REPLACE /usr/local/bin/ /usr/bin/ unit "${unit}")
  file(CONFIGURE OUTPUT ${debian}/nostos.service CONTENT "${unit}" @ONLY)
  file(CONFIGURE OUTPUT ${debian}/changelog CONTENT "nostos (${PROJECT_VERSION}) unstable; urgency=medium

  * See CHANGELOG.md of the source.

 -- nostos maintainers <maintainers@nostos.example>  Thu, 01 Jan 2026 00:00:00 +0000
")
  file(READ packaging/debian/copyright copyright)
  file(CONFIGURE OUTPUT ${debian}/copyright CONTENT "${copyright}" @ONLY)
  find_program(gzip gzip REQUIRED)
  execute_process(COMMAND ${gzip} -9nf ${debian}/changelog COMMAND_ERROR_IS_FATAL ANY)
  install(FILES ${debian}/nostos.service DESTINATION lib/systemd/system)
  install(FILES ${debian}/changelog.gz ${debian}/copyright DESTINATION ${CMAKE_INSTALL_DATADIR}/doc/nostos)
  # Policy 12.1: manual pages are compressed, without a time. Once they are installed, which is before anything is packed.
  install(CODE "file(GLOB pages \"\$ENV{DESTDIR}\${CMAKE_INSTALL_PREFIX}/${CMAKE_INSTALL_MANDIR}/man1/nostos*.1\")
    execute_process(COMMAND ${gzip} -9nf \${pages} COMMAND_ERROR_IS_FATAL ANY)")
endif()

set(CPACK_GENERATOR DEB)
set(CPACK_PACKAGE_NAME nostos)
set(CPACK_PACKAGE_VERSION ${PROJECT_VERSION})
set(CPACK_PACKAGE_CONTACT "nostos maintainers <maintainers@nostos.example>")
set(CPACK_PACKAGE_DESCRIPTION_SUMMARY "image generation with diffusion transformers")
set(CPACK_PACKAGE_DESCRIPTION "nostos draws images from text, and edits them, with Z-Image and
FLUX.2-klein models, on the CPU or on GPUs, on one rank or many with
the same bytes. It has a command line, and a server with a page and the
OpenAI Images and A1111 interfaces. A tiny model comes with it;
`nostos pull` fetches others.")
set(CPACK_PACKAGING_INSTALL_PREFIX /usr)
set(CPACK_STRIP_FILES ON)
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_SECTION graphics)
set(CPACK_DEBIAN_PACKAGE_PRIORITY optional)
set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS ON)
set(CPACK_DEBIAN_PACKAGE_RECOMMENDS ca-certificates)
set(CPACK_INSTALL_DEFAULT_DIRECTORY_PERMISSIONS OWNER_READ OWNER_WRITE OWNER_EXECUTE GROUP_READ GROUP_EXECUTE WORLD_READ WORLD_EXECUTE)
include(CPack)
