# The library that programs link: libnostos.so and libnostos.a, and what finds them once they are installed. Components: `library` is what
# programs run with, `development` what they are built with. A build of the program alone can be installed, too: the libraries are optional. Included by
# the room `api`.
include(CMakePackageConfigHelpers)

set(models_dir ${CMAKE_INSTALL_FULL_DATADIR}/nostos/models)
file(RELATIVE_PATH models_from_program ${CMAKE_INSTALL_FULL_BINDIR} ${models_dir})
file(RELATIVE_PATH models_from_library ${CMAKE_INSTALL_FULL_LIBDIR} ${models_dir})
target_compile_definitions(nostos_api PRIVATE
  NOSTOS_SOURCE_MODELS="${CMAKE_SOURCE_DIR}/models"
  NOSTOS_MODELS_FROM_PROGRAM="${models_from_program}" NOSTOS_MODELS_FROM_LIBRARY="${models_from_library}")

add_library(nostos_shared SHARED $<TARGET_OBJECTS:nostos_api>)
set_target_properties(nostos_shared PROPERTIES
  OUTPUT_NAME nostos EXPORT_NAME nostos VERSION ${PROJECT_VERSION} SOVERSION ${PROJECT_VERSION_MAJOR}
  LINK_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/nostos.map)
target_link_libraries(nostos_shared PRIVATE nostos_api)
target_link_options(nostos_shared PRIVATE -Wl,--as-needed -Wl,--version-script=${CMAKE_CURRENT_SOURCE_DIR}/nostos.map)
target_include_directories(nostos_shared INTERFACE $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>)

# All rooms below the interface in one archive. Its script has relative paths: `ar` takes not every character.
set(rooms base device tensor io text ops parallel nn models adapters families pipeline api)
set(archives "")
set(script "create src/api/libnostos.a\n")
foreach(room IN LISTS rooms)
  list(APPEND archives $<TARGET_FILE:nostos_${room}>)
  string(APPEND script "addlib src/${room}/libnostos_${room}.a\n")
endforeach()
set(static_library ${CMAKE_CURRENT_BINARY_DIR}/libnostos.a)
file(WRITE ${CMAKE_CURRENT_BINARY_DIR}/join.mri "${script}save\nend\n")
add_custom_command(OUTPUT ${static_library}
  COMMAND ${CMAKE_AR} -M < src/api/join.mri
  WORKING_DIRECTORY ${CMAKE_BINARY_DIR} DEPENDS ${archives} COMMENT "Joining the rooms to libnostos.a")
add_custom_target(nostos_static ALL DEPENDS ${static_library})

# What programs link beside the archive.
set(NOSTOS_STATIC_LIBS fmt spdlog png jpeg webpdemux webp pcre2-8 utf8proc crypto z)
if(NOSTOS_ONEDNN)
  list(APPEND NOSTOS_STATIC_LIBS dnnl)
endif()
if(NOSTOS_OPENMP)
  list(APPEND NOSTOS_STATIC_LIBS gomp)
endif()
if(NOSTOS_CUDA)
  list(APPEND NOSTOS_STATIC_LIBS cublasLt cudnn cudart_static rt)
endif()
if(NOSTOS_NCCL)
  list(APPEND NOSTOS_STATIC_LIBS nccl)
endif()
list(APPEND NOSTOS_STATIC_LIBS stdc++ m pthread dl)
list(TRANSFORM NOSTOS_STATIC_LIBS PREPEND -l OUTPUT_VARIABLE static_flags)
list(JOIN static_flags " " NOSTOS_STATIC_FLAGS)

set(package ${CMAKE_INSTALL_LIBDIR}/cmake/nostos)
file(RELATIVE_PATH NOSTOS_PREFIX_FROM_PKGCONFIG ${CMAKE_INSTALL_FULL_LIBDIR}/pkgconfig ${CMAKE_INSTALL_PREFIX})
configure_file(${CMAKE_SOURCE_DIR}/packaging/nostos.pc.in ${CMAKE_CURRENT_BINARY_DIR}/nostos.pc @ONLY)
configure_package_config_file(${CMAKE_SOURCE_DIR}/packaging/nostosConfig.cmake.in ${CMAKE_CURRENT_BINARY_DIR}/nostosConfig.cmake
  INSTALL_DESTINATION ${package} PATH_VARS CMAKE_INSTALL_LIBDIR CMAKE_INSTALL_INCLUDEDIR)
write_basic_package_version_file(${CMAKE_CURRENT_BINARY_DIR}/nostosConfigVersion.cmake COMPATIBILITY SameMajorVersion)

install(TARGETS nostos_shared EXPORT nostosTargets
  LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR} COMPONENT library NAMELINK_COMPONENT development OPTIONAL)
install(EXPORT nostosTargets NAMESPACE nostos:: DESTINATION ${package} COMPONENT development)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/nostosConfig.cmake ${CMAKE_CURRENT_BINARY_DIR}/nostosConfigVersion.cmake
  DESTINATION ${package} COMPONENT development)
install(FILES ${CMAKE_CURRENT_SOURCE_DIR}/include/nostos.h ${CMAKE_CURRENT_SOURCE_DIR}/include/nostos.hpp
  DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} COMPONENT development)
install(FILES ${static_library} DESTINATION ${CMAKE_INSTALL_LIBDIR} COMPONENT development OPTIONAL)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/nostos.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig COMPONENT development)
