# The rooms of the architecture as CMake targets: each is one static library whose link line is its row of the room table.

add_library(nostos_options INTERFACE)
target_compile_options(nostos_options INTERFACE
  $<$<COMPILE_LANGUAGE:CXX>:-Wall;-Wextra;-Wpedantic;-Werror;-fno-math-errno;-fno-trapping-math>
  # messages name files from the root of the project
  $<$<COMPILE_LANGUAGE:CXX>:-ffile-prefix-map=${CMAKE_SOURCE_DIR}/=>
  # g++ 12 warns of overlapping copies in std::string + (GCC bug 105651)
  $<$<AND:$<COMPILE_LANGUAGE:CXX>,$<CXX_COMPILER_ID:GNU>>:-Wno-restrict>
  # nvcc's generated host code is not pedantic C++; fmt 9 takes nvcc for a compiler without constexpr; 554 warns that the view of
  # constants converts to itself
  "$<$<COMPILE_LANGUAGE:CUDA>:SHELL:-Werror all-warnings --expt-relaxed-constexpr -diag-suppress=554 -DFMT_USE_CONSTEXPR=1 -lineinfo -Xcompiler=-Wall,-Wextra,-ffile-prefix-map=${CMAKE_SOURCE_DIR}/=>")
target_include_directories(nostos_options INTERFACE ${CMAKE_SOURCE_DIR}/src)
if(NOSTOS_SANITIZE)
  target_compile_options(nostos_options INTERFACE -fsanitize=${NOSTOS_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=all)
  # among the sanitizers' calls g++ 12 sees overflows and uninitialised members that are none (GCC's manual warns of such warnings); of Asio's
  # fences it says that it does not follow them
  target_compile_options(nostos_options INTERFACE $<$<AND:$<COMPILE_LANGUAGE:CXX>,$<CXX_COMPILER_ID:GNU>>:-Wno-stringop-overflow;-Wno-array-bounds;-Wno-maybe-uninitialized;-Wno-tsan>)
  target_link_options(nostos_options INTERFACE -fsanitize=${NOSTOS_SANITIZE})
endif()

# nostos_room(NAME SOURCES a.cc ... [ROOMS base ...] [LIBS ...]): the room NAME, which may include only ROOMS.
# LIBS are outside libraries, private unless listed in PUBLIC_LIBS.
function(nostos_room name)
  cmake_parse_arguments(ARG "" "" "SOURCES;ROOMS;LIBS;PUBLIC_LIBS" ${ARGN})
  add_library(nostos_${name} STATIC ${ARG_SOURCES})
  target_link_libraries(nostos_${name} PUBLIC nostos_options ${ARG_PUBLIC_LIBS} PRIVATE ${ARG_LIBS})
  foreach(room IN LISTS ARG_ROOMS)
    target_link_libraries(nostos_${name} PUBLIC nostos_${room})
  endforeach()
endfunction()

# nostos_test(NAME SOURCES a_test.cc ... ROOMS ... [LIBS ...] [LABEL long] [TIMEOUT s] [PREFIX p] [AVX2]): one GoogleTest binary, one ctest
# entry a test case, its name after the prefix; with AVX2 each runs once more, as avx2.*, as on a CPU without AVX-512. Tests find data through NOSTOS_SOURCE_DIR and scratch space through testing::TempDir().
function(nostos_test name)
  cmake_parse_arguments(ARG "AVX2" "LABEL;TIMEOUT;PREFIX" "SOURCES;ROOMS;LIBS" ${ARGN})
  add_executable(${name} ${ARG_SOURCES})
  target_compile_definitions(${name} PRIVATE NOSTOS_SOURCE_DIR="${CMAKE_SOURCE_DIR}" NOSTOS_BINARY_DIR="${CMAKE_BINARY_DIR}")
  target_include_directories(${name} PRIVATE ${CMAKE_SOURCE_DIR}/tests)
  target_link_libraries(${name} PRIVATE nostos_options GTest::gtest GTest::gtest_main ${ARG_LIBS})
  foreach(room IN LISTS ARG_ROOMS)
    target_link_libraries(${name} PRIVATE nostos_${room})
  endforeach()
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 120)
  endif()
  set(properties TIMEOUT ${ARG_TIMEOUT})
  if(ARG_LABEL)
    list(APPEND properties LABELS ${ARG_LABEL})
  endif()
  if(ARG_LABEL STREQUAL cuda)
    list(APPEND properties ENVIRONMENT NOSTOS_CACHE_DIR=)  # what is tried is part of the test
  endif()
  gtest_discover_tests(${name} DISCOVERY_MODE PRE_TEST DISCOVERY_TIMEOUT 60 TEST_PREFIX "${ARG_PREFIX}" PROPERTIES ${properties})
  if(ARG_AVX2)
    gtest_discover_tests(${name} DISCOVERY_MODE PRE_TEST DISCOVERY_TIMEOUT 60 TEST_PREFIX avx2. TEST_LIST ${name}_avx2
      PROPERTIES ${properties} ENVIRONMENT ONEDNN_MAX_CPU_ISA=AVX2)
  endif()
endfunction()

# nostos_dispatch_ops_by(NAME FOLDER [a.cc ...]): compiles into the program NAME once more what dispatches ops (some of its
# files, or all), with FOLDER/ops/dispatch.h in the place of the library's. The linker then leaves out the library's own.
function(nostos_dispatch_ops_by name folder)
  set(files ${ARGN})
  if(NOT files)
    get_property(files GLOBAL PROPERTY nostos_op_families)
  endif()
  list(TRANSFORM files PREPEND ${CMAKE_SOURCE_DIR}/src/ops/)
  target_sources(${name} PRIVATE ${files})
  target_include_directories(${name} BEFORE PRIVATE ${folder})
endfunction()
